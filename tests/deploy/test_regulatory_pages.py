"""The regulatory pages are marked as templates, and what they name exists."""

from __future__ import annotations

import ast
import json
import re
from functools import cache
from pathlib import Path

import pytest

from model_store.model_index import default_model_folder

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "regulatory"
PAGES = sorted(page.name for page in FOLDER.glob("*.md"))
WITH_REQUIREMENTS = ("risks.md", "cybersecurity.md")


def rows_of(page: str) -> list[list[str]]:
    """Return the cells of all lines of tables, without headings and rules."""
    text = (FOLDER / page).read_text(encoding="utf-8")
    tables = re.findall(r"^\|.*\n\|[-|]+\|\n((?:\|.*\n)+)", text, re.MULTILINE)
    lines = [line for table in tables for line in table.splitlines()]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


TRACE = rows_of("traceability.md")
IDS = [row[0] for row in TRACE]


@cache
def functions_of(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, kinds))


def test_all_pages_are_there() -> None:
    expected = ["cybersecurity", "intended-use", "risks", "soup", "traceability"]
    assert [f"{name}.md" for name in expected] == PAGES


@pytest.mark.parametrize("name", PAGES)
def test_each_page_says_at_its_top_that_nobody_reviewed_it(name: str) -> None:
    lines = (FOLDER / name).read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# ")
    assert lines[2].startswith("> **Template, not reviewed.**")


@pytest.mark.parametrize("row", TRACE, ids=IDS)
def test_each_requirement_has_code_and_a_test_that_exist(row: list[str]) -> None:
    _, promise, requirement, code, tests = row
    assert promise and requirement
    files = re.findall(r"`([^`]+)`", code)
    named = re.findall(r"`([^`]+)`", tests)
    assert files and named
    for file in files:
        assert (ROOT / file).exists(), f"{file} does not exist"
    for one in named:
        path, _, function = one.partition("::")
        assert function.startswith("test_"), f"{one} names no test"
        assert function in functions_of(ROOT / path), f"{path} has no {function}"


def test_requirements_are_numbered_without_a_gap() -> None:
    assert [f"R{number:02}" for number in range(1, len(IDS) + 1)] == IDS
    assert len(IDS) > 20


def test_each_requirement_meets_a_risk_or_threat_and_those_name_no_other() -> None:
    named: set[str] = set()
    for page in WITH_REQUIREMENTS:
        for row in rows_of(page):
            found = [cell for cell in row if re.fullmatch(r"R\d\d(, R\d\d)*", cell)]
            if page == "risks.md":
                assert found, f"{row[0]}: no requirement meets it"
            named |= {one for cell in found for one in cell.split(", ")}
    assert named == set(IDS)


@pytest.mark.parametrize("page", PAGES)
def test_every_file_of_tests_that_a_page_names_exists(page: str) -> None:
    for name in re.findall(r"`(tests/[\w/.]+?)(?:::\w+)?`", (FOLDER / page).read_text()):
        assert (ROOT / name).exists(), f"{page} names {name}"


def test_the_stated_use_is_that_of_the_served_model() -> None:
    stated = json.loads((default_model_folder() / "manifest.json").read_text())["intended_use"]
    page = re.sub(r"\s+", " ", (FOLDER / "intended-use.md").read_text())
    assert f'"{stated}"' in page


@pytest.mark.parametrize(
    "hazard", ["wrong mask", "Another patient's mask", "stale or another model", "Left and right"]
)
def test_the_hazards_that_matter_most_are_in_the_risk_table(hazard: str) -> None:
    assert any(hazard in row[0] for row in rows_of("risks.md"))
