"""The wheel holds the code and the served model, and nothing that only the repository needs."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from model_store.model_index import MODELS_FOLDER, default_model, default_model_folder, read_index

ROOT = Path(__file__).parents[2]
LARGEST_WHEEL_BYTES = 12_000_000
NOT_IN_THE_WHEEL = ("service/client/pyproject.toml", "service/client/py.typed")
"""They make the client a distribution of its own."""

NOT_IN_THE_WHEEL = ("service/client/pyproject.toml", "service/client/py.typed")
"""They make the client a distribution of its own."""

LARGEST_TREE_BYTES = 40_000_000


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing is left in the tree; pip fetches setuptools."""
    source = tmp_path_factory.mktemp("source") / "tree"
    for name in ("model_store", "service", "training"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", out]
    subprocess.run([*map(str, command), str(source)], check=True)
    (built,) = out.glob("*.whl")
    return built


def test_it_is_small_and_holds_the_served_model_alone(wheel: Path) -> None:
    assert wheel.stat().st_size <= LARGEST_WHEEL_BYTES
    names = zipfile.ZipFile(wheel).namelist()
    weights = [name for name in names if name.endswith(".safetensors")]
    folder = default_model_folder()
    served = sorted(file.name for file in folder.glob("*.safetensors"))
    assert sorted(weights) == [f"model_store/models/{default_model().label}/{n}" for n in served]
    assert "weights.safetensors" in served
    assert "model_store/models/index.json" in names
    packages = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert packages == {"model_store", "service", "training"}


def test_it_holds_every_module_and_data_file_of_the_tree(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    others = tuple(
        (MODELS_FOLDER / model.label).relative_to(ROOT).as_posix()
        for model in read_index()
        if model.status != "served"
    )
    for package in ("model_store", "service", "training"):
        for path in (ROOT / package).rglob("*"):
            name = path.relative_to(ROOT).as_posix()
            is_left_out = name.startswith(others) or name in NOT_IN_THE_WHEEL
            if path.is_file() and "__pycache__" not in name and not is_left_out:
                assert name in names, f"{name} is not in the wheel"


def test_the_tree_stays_small_enough_to_clone() -> None:
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, check=False, text=True
    )
    if listed.returncode != 0:
        pytest.skip("no git checkout: the size of the tree was NOT measured")
    files = [ROOT / name for name in listed.stdout.split("\0") if name]
    assert sum(file.stat().st_size for file in files if file.is_file()) <= LARGEST_TREE_BYTES
