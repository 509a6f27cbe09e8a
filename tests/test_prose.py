"""What users read says one thing a sentence: refusals, warnings, the HTTP description.

Pages are held to the same length by `tests/test_documentation.py`.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.prose import MOST_WORDS, paragraphs, sentences, too_long, words

ROOT = Path(__file__).parents[1]
PACKAGES = ("model_store", "training", "service")


def literal(node: ast.expr) -> str:
    """Return the text of a string in source, a word for each value put in; empty for none."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(literal(part) or "Value" for part in node.values)
    if isinstance(node, ast.BinOp):
        return literal(node.left) + literal(node.right)
    return ""


def refusals(package: str) -> Iterator[tuple[str, str]]:
    """Yield place and text of every sentence that a package raises or warns with."""
    for path in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            said = node.exc if isinstance(node, ast.Raise) else node
            if not isinstance(said, ast.Call):
                continue
            if said is node and not ast.unparse(said.func).endswith("Warning"):
                continue
            for given in [*said.args, *(keyword.value for keyword in said.keywords)]:
                if text := literal(given):
                    yield f"{path.relative_to(ROOT)}:{said.lineno}", text


def descriptions(part: Any) -> Iterator[str]:
    """Yield the descriptions of an OpenAPI file that are prose."""
    if isinstance(part, dict):
        for name, value in part.items():
            if name == "description" and isinstance(value, str):
                yield value
            yield from descriptions(value)
    elif isinstance(part, list):
        for one in part:
            yield from descriptions(one)


def test_sentences_are_cut_as_readers_cut_them() -> None:
    page = (
        "# Title of many words\n\nOne (an aside). Two: a list; `of code words` e.g. one.\n\n| a |\n"
    )
    (paragraph,) = paragraphs(page)
    assert sentences(paragraph) == ["One .", "Two", "a list", "Code eg one.", "an aside"]
    assert words("1024 x 1024 - two 'words'") == ["1024", "x", "1024", "two", "'words'"]
    items = list(paragraphs("- first\n  goes on\n- second\n1. third\n\n```\nno prose\n```\n"))
    assert items == ["first goes on", "second", "third"]
    long = " ".join(["word"] * (MOST_WORDS + 1))
    assert too_long(f"Short. {long.capitalize()}. Short.") == [f"{long.capitalize()}."]
    assert not too_long(f"{long.rpartition(' ')[0].capitalize()}. And more.")


@pytest.mark.parametrize("package", PACKAGES)
def test_no_refusal_or_warning_has_a_sentence_of_more_than_25_words(package: str) -> None:
    found = list(refusals(package))
    assert len(found) > 80
    long = [(place, one) for place, text in found for one in too_long(text)]
    assert not long, long


def test_no_description_of_the_interface_has_a_sentence_of_more_than_25_words() -> None:
    snapshot = ROOT / "tests" / "service" / "openapi.json"
    found = set(descriptions(json.loads(snapshot.read_text(encoding="utf-8"))))
    assert len(found) > 100
    long = [one for text in found for part in paragraphs(text) for one in too_long(part)]
    assert not long, long


@pytest.mark.parametrize("package", [*PACKAGES, "benchmarks", "deploy"])
def test_docstrings_of_functions_say_what_to_do(package: str) -> None:
    """Imperative, also where a verb is not in ruff's list: "Let", not "Lets"."""
    looked_at = 0
    for path in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                continue
            is_property = any("property" in ast.unparse(one) for one in node.decorator_list)
            first, *_ = (ast.get_docstring(node) or "Return").split()
            looked_at += not is_property
            is_third_person = first[0].isupper() and first.rstrip(".,:;").endswith("s")
            is_fine = is_property or not is_third_person or first in ("Process", "Pass", "Compress")
            assert is_fine, f"{path.relative_to(ROOT)}:{node.lineno} begins with {first!r}"
    assert looked_at > 10


EMPTY_WORDS = {
    *("a", "an", "the", "this", "that", "it", "its", "their", "own", "one", "each", "every", "all"),
    *("of", "for", "in", "to", "on", "at", "by", "with", "as", "and", "or", "given"),
    *("is", "are", "be", "what", "which", "where", "whose"),
}


def described(docstring: str, section: str) -> Iterator[tuple[str, str]]:
    """Yield name and text of each item in a section of a docstring, such as `Args`."""
    _, found, items = docstring.partition(f"{section}:\n")
    items = re.split(r"\n\n|\n(?=\S)", items)[0]
    for item in re.split(r"\n {4}(?=\S)", "\n" + items if found else ""):
        if parts := re.match(r"\*{0,2}(\w+)(?: \([^)]*\))?: (.+)", item, re.DOTALL):
            yield parts[1], " ".join(parts[2].split())


def words_of(text: str) -> set[str]:
    """Return the words of a text or of an identifier, without case and plural; code is one word."""
    return {word.lower().rstrip("s") for word in re.findall(r"`.+?`|[A-Z]?[a-z]+|[A-Z]+|\d+", text)}


def says_nothing(name: str, annotation: str, text: str) -> bool:
    """Whether a description holds only the words of a name and its type."""
    return words_of(text) <= words_of(f"{name} {annotation} {' '.join(EMPTY_WORDS)}")


def test_a_description_of_the_words_of_its_name_alone_says_nothing() -> None:
    docstring = inspect.cleandoc("""One file.

    Attributes:
        hash: of the bytes,
            all of them.
        path: the path.
        max_bytes: max bytes.
    """)
    found = list(described(docstring, "Attributes"))
    assert [name for name, _ in found] == ["hash", "path", "max_bytes"]
    assert found[0][1] == "of the bytes, all of them."
    assert [says_nothing(name, "", text) for name, text in found] == [False, True, True]
    assert not list(described(docstring, "Args"))


def test_a_description_of_the_words_of_its_type_alone_says_nothing() -> None:
    assert says_nothing("found", "Sequence[MaskPrediction]", "The predictions of masks.")
    assert not says_nothing("found", "Sequence[MaskPrediction]", "One mask for each box.")


@pytest.mark.parametrize("package", [*PACKAGES, "benchmarks", "deploy"])
def test_no_description_only_repeats_a_name_or_a_type(package: str) -> None:
    for path in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            types: dict[str, str] = {}
            if isinstance(node, ast.ClassDef):
                section = "Attributes"
            elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                section = "Args"
                for one in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs):
                    types[one.arg] = ast.unparse(one.annotation) if one.annotation else ""
            else:
                continue
            for name, text in described(ast.get_docstring(node) or "", section):
                place = f"{path.relative_to(ROOT)}:{node.lineno} {node.name}, {name}"
                assert not says_nothing(name, types.get(name, ""), text), f"{place}: {text}"
