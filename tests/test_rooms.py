"""Which package may import which: training writes, model_store is, service reads."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FORBIDDEN = {
    "model_store": {"training", "service", "fastapi", "starlette", "uvicorn", "benchmarks"},
    "training": {"service", "fastapi", "starlette", "uvicorn", "benchmarks"},
    "service": {"training", "benchmarks", "monai", "scipy"},
}
VAGUE = {"utils", "common", "helpers", "manager", "misc"}


def imported_packages(path: Path) -> set[str]:
    """Top-level packages that a file imports, at any depth."""
    packages: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            packages |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            packages.add(node.module.split(".")[0])
    return packages


@pytest.mark.parametrize("room", FORBIDDEN)
def test_no_forbidden_edge(room: str) -> None:
    files = list((ROOT / room).rglob("*.py"))
    assert files
    for path in files:
        wrong = imported_packages(path) & FORBIDDEN[room]
        assert not wrong, f"{path.relative_to(ROOT)} imports {', '.join(sorted(wrong))}"


def test_no_vague_names() -> None:
    for room in FORBIDDEN:
        for path in (ROOT / room).rglob("*.py"):
            assert path.stem not in VAGUE, path
