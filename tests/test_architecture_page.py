"""What the page on architecture draws is what the code says: exceptions and packages."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import pytest

from service import errors

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "architecture.md"
PACKAGES = ("model_store", "training", "service")
FAMILIES = ("PictureError", "WorkerError")
"""Exceptions of which the page draws every descendant."""


@dataclass(frozen=True)
class ExceptionClass:
    """An exception of this repository.

    Attributes:
        parent: name of its first base class.
        file: where it is defined, relative to the repository.
    """

    parent: str
    file: str


def exception_classes(package: str) -> dict[str, ExceptionClass]:
    """Return the exceptions that a package defines, read without importing anything."""
    classes = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and node.bases:
                file = path.relative_to(ROOT).as_posix()
                parent = ast.unparse(node.bases[0])
                classes[node.name] = ExceptionClass(parent, file)
    return {name: found for name, found in classes.items() if is_exception(name, classes)}


def is_exception(name: str, classes: dict[str, ExceptionClass]) -> bool:
    """Say whether a class descends from a built-in exception, or from one of another package."""
    while name in classes:
        name = classes[name].parent
    return name.endswith(("Error", "Exception")) and name[0].isupper()


def drawn_family(name: str, classes: dict[str, ExceptionClass], depth: int = 0) -> list[str]:
    """Return the lines that draw an exception and its descendants."""
    lines = [f"{'    ' * depth}{name}".ljust(44) + classes[name].file]
    for child in sorted(classes):
        if classes[child].parent == name:
            lines += drawn_family(child, classes, depth + 1)
    return lines


def drawn_exceptions() -> str:
    """Return the tree of exceptions as the page has to draw it."""
    by_status = defaultdict(list)
    for kind in errors.ServiceError.__subclasses__():
        by_status[kind.status].append(kind.__name__)
    lines = ["ServiceError".ljust(44) + "service/errors.py"]
    for status, names in sorted(by_status.items()):
        lines.append(f"    {status}  {', '.join(sorted(names))}")
    everything = {k: v for package in PACKAGES for k, v in exception_classes(package).items()}
    for family in FAMILIES:
        lines += ["", *drawn_family(family, everything)]
    for package in ("model_store", "training"):
        classes = exception_classes(package)
        alone = [n for n in sorted(classes) if classes[n].parent not in everything]
        lines.append("")
        for name in alone:
            if name not in FAMILIES:
                lines += drawn_family(name, classes)
    return "\n".join(lines)


def test_the_drawn_exceptions_are_those_of_the_code() -> None:
    section = PAGE.read_text(encoding="utf-8").partition("## Exceptions")[2]
    found = re.search(r"```text\n(.*?)\n```", section, re.DOTALL)
    assert found is not None, "the page draws no exceptions"
    expected = drawn_exceptions()
    assert found[1] == expected, f"docs/architecture.md has to draw:\n{expected}"


@pytest.mark.parametrize("package", PACKAGES)
def test_the_drawn_tree_has_every_package_that_exists_and_no_other(package: str) -> None:
    section = PAGE.read_text(encoding="utf-8").partition("## The tree")[2]
    found = re.search(rf"^{package}/.*\n((?:    .*\n)*)", section, re.MULTILINE)
    assert found is not None, f"the page does not draw {package}/"
    drawn = set(re.findall(r"^    (\w+)/", found[1], re.MULTILINE))
    folders = {path.parent.name for path in (ROOT / package).glob("*/__init__.py")}
    assert folders, package
    assert folders <= drawn, f"not drawn: {sorted(folders - drawn)}"
    assert all((ROOT / package / name).is_dir() for name in drawn)
