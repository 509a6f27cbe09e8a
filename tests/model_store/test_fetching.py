"""Models come in from folders, archives and history, and only when the loader has proven them."""

from __future__ import annotations

import dataclasses
import functools
import http.server
import shutil
import subprocess
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest import MonkeyPatch

from model_store import fetching
from model_store.__main__ import main
from model_store.artifact import ArtifactError, read_manifest
from model_store.fetching import FetchError, fetch, verify
from model_store.model_index import IndexedModel


def line_of(folder: Path, **changes: object) -> IndexedModel:
    manifest = read_manifest(folder)
    size = (folder / "weights.safetensors").stat().st_size
    line = IndexedModel(
        manifest.name, manifest.version, manifest.weights.sha256, size, "superseded",
        f"folder:{folder}",
    )  # fmt: skip
    return dataclasses.replace(line, **changes)  # type: ignore[arg-type]


@pytest.fixture
def archive(tiny_artifact: Path, tmp_path: Path) -> Path:
    path = tmp_path / "model.tar.gz"
    with tarfile.open(path, "w:gz") as file:
        file.add(tiny_artifact, "some/folder")
    return path


def test_a_folder_is_taken_proven_and_named(tiny_artifact: Path, tmp_path: Path) -> None:
    line = line_of(tiny_artifact)
    folder = fetch(line, tmp_path / "models")
    assert folder == tmp_path / "models" / line.name / line.version
    assert verify(line, folder).agreement == 1.0
    assert (folder.stat().st_mode & 0o777) == 0o755
    with pytest.raises(FetchError, match="exists already"):
        fetch(line, tmp_path / "models")


def test_tar_and_zip_archives_are_taken(tiny_artifact: Path, archive: Path, tmp_path: Path) -> None:
    line = line_of(tiny_artifact)
    assert verify(line, fetch(line, tmp_path / "a", str(archive))).passed
    assert verify(line, fetch(line, tmp_path / "b", f"file:{archive}")).passed
    zipped = shutil.make_archive(str(tmp_path / "zipped"), "zip", tiny_artifact)
    assert verify(line, fetch(line, tmp_path / "c", zipped)).passed


def test_an_archive_writes_nowhere_else(tiny_artifact: Path, tmp_path: Path) -> None:
    path = tmp_path / "hostile.zip"
    with zipfile.ZipFile(path, "w") as file:
        for one in tiny_artifact.iterdir():
            file.write(one, f"../../{one.name}")
        file.writestr("../outside.txt", "x")
    folder = fetch(line_of(tiny_artifact), tmp_path / "deep" / "models", str(path))
    assert {one.name for one in folder.iterdir()} == {one.name for one in tiny_artifact.iterdir()}
    assert not list(tmp_path.rglob("outside.txt"))


@pytest.mark.parametrize("change", [{"sha256": "0" * 64}, {"version": "99"}])
def test_another_model_is_refused_and_leaves_nothing(
    tiny_artifact: Path, tmp_path: Path, change: dict[str, str]
) -> None:
    with pytest.raises(ArtifactError, match="not tiny"):
        fetch(line_of(tiny_artifact, **change), tmp_path / "models")
    assert not [path for path in (tmp_path / "models").rglob("*") if path.is_file()]
    assert not list((tmp_path / "models").glob("*/.arriving-*"))


def test_a_cut_archive_is_refused(tiny_artifact: Path, archive: Path, tmp_path: Path) -> None:
    archive.write_bytes(archive.read_bytes()[:-2000])
    with pytest.raises(FetchError, match="is not a whole tar or zip archive"):
        fetch(line_of(tiny_artifact), tmp_path / "models", str(archive))
    with pytest.raises(FetchError, match="neither a folder nor a file"):
        fetch(line_of(tiny_artifact), tmp_path / "models", str(tmp_path / "nowhere"))


@pytest.fixture
def site(archive: Path) -> Iterator[str]:
    handler = functools.partial(QuietHandler, directory=str(archive.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


def test_an_address_is_read_and_never_more_than_the_index_says(
    tiny_artifact: Path, tmp_path: Path, site: str
) -> None:
    line = line_of(tiny_artifact)
    assert verify(line, fetch(line, tmp_path / "models", f"{site}/model.tar.gz")).passed
    with pytest.raises(FetchError, match="cannot be read: HTTP Error 404"):
        fetch(line, tmp_path / "none", f"{site}/absent.tar.gz")
    (tmp_path / "large.tar.gz").write_bytes(
        bytes(line.size_bytes + fetching.BESIDE_WEIGHTS_BYTES + 1)
    )
    with pytest.raises(FetchError, match="is larger than the"):
        fetch(line, tmp_path / "none", f"{site}/large.tar.gz")


def git(root: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    command = ["git", "-C", str(root), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def history(tiny_artifact: Path, tmp_path: Path) -> tuple[Path, IndexedModel]:
    """A repository whose first commit holds a model that the second one took away."""
    line = line_of(tiny_artifact)
    root = tmp_path / "repository"
    shutil.copytree(tiny_artifact, root / "model_store" / "models" / line.label)
    git(tmp_path, "init", "-q", str(root))
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "with")
    commit = git(root, "rev-parse", "HEAD")
    git(root, "rm", "-rq", "model_store")
    git(root, "commit", "-q", "--allow-empty", "-m", "without")
    return root, dataclasses.replace(line, where=f"git:{commit}")


def test_an_older_version_comes_out_of_the_history(
    history: tuple[Path, IndexedModel], tmp_path: Path, monkeypatch: MonkeyPatch
) -> None:
    root, line = history
    monkeypatch.setattr(fetching, "MODELS_FOLDER", root / "model_store" / "models")
    assert verify(line, fetch(line, tmp_path / "models")).passed


def test_a_shallow_clone_is_told_what_to_run(
    history: tuple[Path, IndexedModel], tmp_path: Path, monkeypatch: MonkeyPatch
) -> None:
    root, line = history
    shallow = tmp_path / "shallow"
    git(tmp_path, "clone", "-q", "--depth", "1", root.as_uri(), str(shallow))
    monkeypatch.setattr(fetching, "MODELS_FOLDER", shallow / "model_store" / "models")
    with pytest.raises(FetchError, match="git fetch --unshallow"):
        fetch(line, tmp_path / "models")


def test_an_installed_package_is_told_that_it_has_no_history(
    history: tuple[Path, IndexedModel], tmp_path: Path, monkeypatch: MonkeyPatch
) -> None:
    _, line = history
    (tmp_path / "site" / "model_store" / "models").mkdir(parents=True)
    monkeypatch.setattr(fetching, "MODELS_FOLDER", tmp_path / "site" / "model_store" / "models")
    with pytest.raises(FetchError, match="this is no clone of the repository"):
        fetch(line, tmp_path / "models")


def test_the_command_says_what_is_wrong_in_one_sentence(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["verify", "nobody/1"]) == 2
    assert capsys.readouterr().err.startswith("python -m model_store: no model nobody/1; there are")
    older = "cxr-lung-tiny-float"
    line = next(m for m in fetching_index() if m.name == older and m.status == "superseded")
    assert main(["verify", line.label, "--into", str(tmp_path)]) == 2
    assert "is not stored here; `fetch` gets it" in capsys.readouterr().err
    place = str(tmp_path / "nowhere")
    assert main(["fetch", line.label, "--into", str(tmp_path), "--from", place]) == 2
    assert "neither a folder nor a file" in capsys.readouterr().err


def fetching_index() -> tuple[IndexedModel, ...]:
    from model_store.model_index import read_index

    return read_index()


def test_the_served_model_is_verified_by_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    from model_store.model_index import default_model

    assert main(["verify", default_model().label]) == 0
    assert "right (1.00000 of the golden mask)" in capsys.readouterr().out
