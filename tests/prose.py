"""Cutting prose into sentences and words, to hold what users read to a length.

The rules, so that lists and tables stay what they are:

* Tables, headings, pictures and code blocks are no prose; an item of a list is a paragraph.
* What stands in parentheses is a sentence of its own, and so is what follows a colon.
* What follows a colon and is parted by semicolons is a list: each part counts alone.
* Code, an address and a quotation are one word each.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

MOST_WORDS = 25

_FENCED = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
_ITEM = re.compile(r"(?:[-*]|\d+\.) +")
_LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
_CODE = re.compile(r"(`+)[^`]+\1")
_QUOTATION = re.compile(r'(?<!\w)"[^"]+"')
_ADDRESS = re.compile(r"<?https?://[^\s>]+>?")
_PARENTHESIS = re.compile(r"\(([^()]*)\)")
_ABBREVIATION = re.compile(r"\b(e\.g|i\.e|vs|al|J|No|Med|Intell|Res)\.")
_END = re.compile(r"(?<=[.!?])[\"')”]*\s+(?=[\"“'(]?[A-Z0-9])")


def paragraphs(page: str) -> Iterator[str]:
    """Yield the paragraphs and list items of a Markdown page, each as one line."""
    lines: list[str] = []
    for line in [*_FENCED.sub("", page).splitlines(), ""]:
        text = line.strip().removeprefix("> ")
        begins = _ITEM.match(text)
        is_prose = bool(text) and not text.startswith(("|", "#", "<!", "![", "---"))
        if (begins or not is_prose) and lines:
            yield " ".join(lines)
            lines = []
        if is_prose and not (line.startswith("    ") and not lines and not begins):
            lines.append(text[begins.end() :] if begins else text)


def sentences(paragraph: str) -> list[str]:
    """Return the sentences of a paragraph by the rules of this module."""
    text = _LINK.sub(r"\1", _CODE.sub("Code", paragraph))
    text = _QUOTATION.sub("Quotation", _ADDRESS.sub("Address", text))
    text = _ABBREVIATION.sub(lambda found: found[0].replace(".", ""), text)
    text = text.replace("*", "")
    asides = []
    while (aside := _PARENTHESIS.search(text)) is not None:
        asides.append(aside[1])
        text = text[: aside.start()] + text[aside.end() :]
    found = []
    for whole in (part for one in (text, *asides) for part in _END.split(one)):
        clause, *lists = re.split(r":\s", whole)
        found += [clause, *(part for one in lists for part in one.split("; "))]
    return [one.strip() for one in found if one.strip()]


def words(sentence: str) -> list[str]:
    """Return the words of a sentence; signs that stand alone are none."""
    return [word for word in sentence.split() if re.search(r"\w", word)]


def too_long(paragraph: str) -> list[str]:
    """Return the sentences of a paragraph that have more than `MOST_WORDS` words."""
    return [one for one in sentences(paragraph) if len(words(one)) > MOST_WORDS]
