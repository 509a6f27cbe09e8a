"""Pages of documentation lead where they say: links, sections, pages that code names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.prose import paragraphs, too_long

ROOT = Path(__file__).parents[1]
FOLDERS = ("docs", "benchmarks", "model_store", "deploy", "examples", ".ci")
PAGES = sorted(
    [*ROOT.glob("*.md"), *(page for name in FOLDERS for page in (ROOT / name).rglob("*.md"))]
)
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
LINK = re.compile(r"(?<!`)\[[^\]]*\]\(([^)\s]+)\)")
LONGEST_LINE = 100
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def prose_of(page: Path) -> str:
    """Return the page with fenced code emptied and its number of lines kept."""
    text = page.read_text(encoding="utf-8")
    return FENCED.sub(lambda code: "\n" * code[0].count("\n"), text)


def anchors_of(page: Path) -> set[str]:
    """Return the anchors that GitHub makes of the page's headings."""
    found: set[str] = set()
    for title in re.findall(r"^#+ (.+?)\s*$", prose_of(page), flags=re.MULTILINE):
        slug = re.sub(r"[^\w -]", "", title).lower().replace(" ", "-")
        number = 0
        while (anchor := slug if number == 0 else f"{slug}-{number}") in found:
            number += 1
        found.add(anchor)
    return found


def links_of(page: Path) -> Iterator[tuple[Path, str]]:
    """Yield file and anchor of each relative link of a page."""
    for link in LINK.findall(prose_of(page)):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        yield (page.parent / target).resolve() if target else page, anchor


@pytest.mark.parametrize("name", NAMES)
def test_every_link_leads_to_a_file_and_a_section_that_exist(name: str) -> None:
    for target, anchor in links_of(ROOT / name):
        assert target.exists(), f"{name} links to {target.name}, which does not exist"
        if anchor:
            assert target.suffix == ".md", f"{name}: {target.name} has no sections"
            assert anchor in anchors_of(target), f"{name}: {target.name} has no section {anchor}"


def test_code_and_settings_name_only_pages_that_exist() -> None:
    endings = {".py", ".toml", ".yml", ".yaml", ".json", ".sh", ".html", ".js"}
    folders = ("benchmarks", "deploy", "model_store", "service", "tests", "training")
    files = [
        *(
            p
            for name in folders
            for p in (ROOT / name).rglob("*")
            if p.suffix in endings and p.is_file() and "node_modules" not in p.parts
        ),
        *(ROOT / name for name in ("Dockerfile", "Makefile", "docker-compose.yml")),
    ]
    named = {
        (file.relative_to(ROOT).as_posix(), page, anchor)
        for file in files
        for page, anchor in re.findall(
            r"\b(docs/[\w/-]+\.md)(?:#([\w-]+))?", file.read_text(encoding="utf-8")
        )
    }
    assert len(named) > 10
    for file_name, page, anchor in sorted(named):
        assert (ROOT / page).is_file(), f"{file_name} names {page}, which does not exist"
        assert not anchor or anchor in anchors_of(ROOT / page), f"{file_name}: {page}#{anchor}"


def test_the_overview_names_every_page_once() -> None:
    overview = ROOT / "docs" / "README.md"
    linked = [target for target, _ in links_of(overview)]
    pages = {page for page in (ROOT / "docs").rglob("*.md") if page != overview}
    assert pages <= set(linked), f"not named: {sorted(p.name for p in pages - set(linked))}"
    assert len(linked) == len(set(linked))


def test_the_page_of_promises_names_only_tests_that_exist() -> None:
    page = ROOT / "docs" / "dev" / "tests.md"
    named = re.findall(r"`(tests/[\w/.]+)`", page.read_text(encoding="utf-8"))
    assert len(named) > 50
    for name in named:
        assert (ROOT / name).exists(), f"{name} does not exist"


@pytest.mark.parametrize("name", [name for name in NAMES if "/models/" not in name])
def test_lines_of_prose_fit_into_100_characters(name: str) -> None:
    for number, line in enumerate(prose_of(ROOT / name).splitlines(), start=1):
        holds_one_command = re.search(r"`[^`]{40,}`", line) is not None
        if not line.startswith(("|", "    ")) and not holds_one_command:
            assert len(line) <= LONGEST_LINE, f"{name}, line {number}: {len(line)} characters"


def test_commands_of_the_readme_are_not_cut_off_on_a_screen() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = [line for block in FENCED.findall(text) for line in block.splitlines()]
    assert len(lines) > 15
    assert [line for line in lines if len(line) > LONGEST_LINE] == []


NOT_OUR_WORDS = {
    r"films?": "X-ray",
    r"without a word": "silently",
    r"(was|were|is) not to be had": "not available",
    r"anew": "again, or restarted",
    r"shall": "will, must, or is to",
    r"hears?": "gets, or reads",
    r"wishes": "options, or a request",
    r"asked (of|about)": "the request, the boxes, or segmented",
    r"for ever": "forever",
}
"""Words that readers stumbled over, and what the pages say instead."""


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("docs/dev/")])
def test_pages_use_the_words_of_the_field(name: str) -> None:
    text = " ".join(prose_of(ROOT / name).split())
    for words, better in NOT_OUR_WORDS.items():
        found = re.search(rf"\b{words}\b", text, re.IGNORECASE)
        assert found is None, f"{name} says {found[0]!r}; say {better}"


HISTORY = ("docs/dev/", "CHANGELOG.md", "model_store/models/")
"""Pages of dated notes, and cards of stored versions, which never change."""


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith(HISTORY)])
def test_no_sentence_has_more_than_25_words(name: str) -> None:
    page = (ROOT / name).read_text(encoding="utf-8")
    long = [one for paragraph in paragraphs(page) for one in too_long(paragraph)]
    assert not long, f"{name}: {long}"


@pytest.mark.parametrize("package", ["model_store", "training", "service", "benchmarks"])
def test_code_uses_the_words_of_the_field(package: str) -> None:
    for file in sorted((ROOT / package).rglob("*.py")):
        text = " ".join(file.read_text(encoding="utf-8").split())
        for words, better in NOT_OUR_WORDS.items():
            found = re.search(rf"\b{words}\b", text, re.IGNORECASE)
            assert found is None, f"{file.relative_to(ROOT)} says {found[0]!r}; say {better}"
