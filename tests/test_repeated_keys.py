"""No table of the code has a key twice: Python keeps the last value and says nothing."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def repeated_keys(source: str) -> list[tuple[int, str]]:
    """Return line and key of each dictionary display that has a key more than once."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Dict):
            keys = [ast.unparse(key) for key in node.keys if key is not None]
            found += [(node.lineno, key) for key in sorted({k for k in keys if keys.count(k) > 1})]
    return found


def test_a_repeated_key_is_found_whatever_it_is() -> None:
    assert repeated_keys("{Code.A: 1, Code.B: 2, **more, Code.A: 3}") == [(1, "Code.A")]
    assert repeated_keys("{'a': 1, 'b': {'a': 2}}") == []


@pytest.mark.parametrize("package", ["model_store", "training", "service", "benchmarks", "deploy"])
def test_no_table_has_a_key_twice(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    for file in files:
        found = repeated_keys(file.read_text(encoding="utf-8"))
        assert not found, f"{file.relative_to(ROOT)}: {found}"
