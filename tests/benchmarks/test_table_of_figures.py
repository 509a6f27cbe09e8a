"""The table of figures names every command there is, and pages that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
STARTED_BY_OTHERS = {
    "benchmarks.engines.first_mask",
    "benchmarks.service.bound_process",
    "benchmarks.service.caller_processes",
}


def test_every_command_stands_in_the_table() -> None:
    commands = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in BENCHMARKS.rglob("*.py")
        if '__name__ == "__main__"' in path.read_text(encoding="utf-8")
    }
    table = (BENCHMARKS / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"python -m (benchmarks\.[\w.]+)", table))
    assert named == commands - STARTED_BY_OTHERS


def test_every_page_and_section_of_the_table_exists() -> None:
    table = (BENCHMARKS / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#]+)(?:#([^)]+))?\)", table)
    assert len(links) > 15
    for page, section in links:
        text = (BENCHMARKS / page).resolve().read_text(encoding="utf-8")
        titles = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
        slugs = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}
        assert not section or section in slugs, f"{page} has no section {section}"


def test_pages_name_only_commands_that_exist() -> None:
    for page in [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "CHANGELOG.md"]:
        for name in re.findall(r"benchmarks(?:\.[a-z_]+)+", page.read_text(encoding="utf-8")):
            path = ROOT / Path(*name.split("."))
            assert path.is_dir() or path.with_suffix(".py").is_file(), f"{page.name}: {name}"
