"""The packages of training in layers: each imports only those above it in the list."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

LAYERS = (
    "errors",
    "settings",
    "acceleration",
    "checkpoint",
    "losses",
    "model_card",
    "phantom",
    "adapters",
    "optimizers",
    "data",
    "evaluation",
    "prepare",
    "quantization",
    "config",
    "stages",
    "export",
    "quality",
    "graphs",
    "run",
    "reference",
    "report",
    "commands",
    "__main__",
)
"""Packages and modules of training, the lowest first."""


def files_of(layer: str) -> list[Path]:
    folder = ROOT / "training" / layer
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]


def imported_layers(path: Path) -> set[str]:
    """Return the layers of training that a file imports, at any depth."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    parts = [name.split(".") for name in names]
    return {part[1] for part in parts if part[0] == "training" and len(part) > 1}


def test_every_package_and_module_has_its_layer() -> None:
    found = {
        path.stem if path.is_file() else path.name
        for path in (ROOT / "training").iterdir()
        if path.suffix == ".py" or (path / "__init__.py").is_file()
    }
    assert found - {"__init__"} == set(LAYERS)


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_imports_only_lower_ones(layer: str) -> None:
    allowed = set(LAYERS[: LAYERS.index(layer) + 1])
    for path in files_of(layer):
        wrong = imported_layers(path) - allowed
        assert not wrong, f"{path.relative_to(ROOT)} imports {', '.join(sorted(wrong))}"
