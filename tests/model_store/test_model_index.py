"""The index of models: what it names is there, and nothing else says which model is the default."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from model_store.__main__ import main
from model_store.artifact import sha256_of
from model_store.model_index import (
    MODELS_FOLDER,
    IndexedModel,
    ModelIndexError,
    default_float_twin_folder,
    default_model,
    default_model_folder,
    find_model,
    read_index,
)

ROOT = Path(__file__).parents[2]
VERSIONED = re.compile(r"cxr-lung-tiny(?:-float)?(?:`|\")?(?:/| |\", \")(\d+)\b")
HISTORY = ("CHANGELOG.md", "docs/", "dev/", "model_store/models/", "training/configs/")
"""What was measured, and how each model was made, rightly names versions."""

CURRENT = ("README.md", "docs/http.md", "docs/integration.md", "docs/operations/")
"""What a reader copies: it may link to the served model's own folder and to no other."""


def tracked_texts() -> list[Path]:
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, check=False, text=True
    )
    if listed.returncode != 0:
        pytest.skip("no git checkout: names of versions were NOT looked for")
    endings = {".py", ".toml", ".md", ".yml", ".yaml", ".sh", ".json", ".cfg", ".txt"}
    paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    named = {"Dockerfile", "Makefile", "run"}
    return [p for p in paths if p.is_file() and (p.suffix in endings or p.name in named)]


def test_nothing_else_names_a_version() -> None:
    looked_at = 0
    for path in tracked_texts():
        name = path.relative_to(ROOT).as_posix()
        if name.startswith(HISTORY) and not name.startswith(CURRENT):
            continue
        found = VERSIONED.findall(path.read_text(encoding="utf-8"))
        allowed = {default_model().version} if name.startswith(CURRENT) else set()
        assert set(found) <= allowed, f"{name} names version {', '.join(found)}"
        looked_at += 1
    assert looked_at > 100


def test_the_served_model_its_twin_and_offered_ones_are_in_the_tree_and_nothing_else_is() -> None:
    folders = {path.parent for path in MODELS_FOLDER.glob("*/*/manifest.json")}
    offered = {MODELS_FOLDER / m.label for m in read_index() if m.status == "offered"}
    assert folders == {default_model_folder(), default_float_twin_folder(), *offered}
    for model in read_index():
        folder = MODELS_FOLDER / model.label
        if model.status == "superseded":
            assert model.where.startswith("git:")
            continue
        assert model.where == f"folder:{model.label}"
        assert sha256_of(folder / "weights.safetensors") == model.sha256
        assert (folder / "weights.safetensors").stat().st_size == model.size_bytes


def write_index(path: Path, **changes: object) -> Path:
    line = {
        "name": "a", "version": "1", "sha256": "0" * 64, "size_bytes": 1, "status": "served",
        "where": "folder:a/1",
    } | changes  # fmt: skip
    path.write_text(json.dumps({"format_version": 1, "models": [line]}))
    return path


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "is not an index of models"),
        ("[]", "is not an index of models"),
        ('{"format_version": 2, "models": []}', "format version 2, not 1"),
        ('{"format_version": 1, "models": []}', "exactly one model must be served"),
        ('{"format_version": 1, "models": [{"name": "a"}]}', "is not an index of models"),
    ],
)
def test_a_damaged_index_is_refused_with_the_reason(
    tmp_path: Path, content: str, reason: str
) -> None:
    path = tmp_path / "index.json"
    path.write_text(content)
    with pytest.raises(ModelIndexError, match=reason):
        read_index(path)


def test_an_index_names_each_model_once_and_knows_its_words(tmp_path: Path) -> None:
    path = write_index(tmp_path / "index.json")
    (model,) = read_index(path)
    assert model == IndexedModel("a", "1", "0" * 64, 1, "served", "folder:a/1")
    content = json.loads(path.read_text())
    content["models"] *= 2
    path.write_text(json.dumps(content))
    with pytest.raises(ModelIndexError, match="names a model twice"):
        read_index(path)
    with pytest.raises(ModelIndexError, match="status 'new' is not served"):
        read_index(write_index(path, status="new"))
    with pytest.raises(ModelIndexError, match="cannot be read"):
        read_index(tmp_path / "absent.json")


def test_a_model_that_nobody_stored_is_told_those_that_were() -> None:
    with pytest.raises(ModelIndexError, match=f"no model x/1; there are {default_model().label}"):
        find_model("x/1")


def test_the_list_shows_every_model_and_where_it_is(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["list", "--into", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [model.label for model in read_index()]
    assert str(default_model_folder()) in lines[0]
    assert "not here (git:" in lines[-1]
