"""Decode text of DICOM headers by the character sets that hospitals really use.

Specific Character Set (0008,0005) gives the encoding of a header's bytes: PS3.3 C.12.1.1.2 and
PS3.5 6.1. In practice the attribute can be absent, empty or misspelt, or name a set in the form of
the other kind. Decoding here is exact: no replacement characters, and None if the bytes are not
text of the set.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial

from pydicom.charset import CODES_TO_ENCODINGS, default_encoding, python_encoding

_ASCII = "ascii"
_ESCAPE = b"\x1b"
_FRAGMENT = re.compile(rb"^[^\x1b]+|\x1b[^\x1b]*")
_RESETS = frozenset(b"\\^=")  # PS3.5 6.1.2.5.3: the first set is active again after them
_READS_ITS_ESCAPES = frozenset({"iso2022_jp", "iso2022_jp_2"})
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_LINE_BREAKS = re.compile(r"[\t\n\f\r]")
_ESCAPE_OR_C1 = re.compile(r"[\x1b\x7f-\x9f]")
_UNDECLARED = ("utf_8", "iso8859_1")
# Names from outside DICOM that occur in headers, without spaces, hyphens and underscores.
_FOREIGN_NAMES = {
    "ansi": "cp1252",
    "big5": "big5hkscs",
    "cp874": "cp874",
    "cp932": "cp932",
    "cp936": "gbk",
    "cp949": "cp949",
    "cp950": "cp950",
    "eucjp": "euc_jp",
    "euckr": "cp949",
    "gb2312": "gbk",
    "isoir203": "iso8859_15",  # in the standard since 2024, unknown to pydicom 3.0
    "iso2022ir203": "iso8859_15",
    "koi8r": "koi8_r",
    "koi8u": "koi8_u",
    "ksc5601": "cp949",
    "ms932": "cp932",
    "shiftjis": "cp932",
    "sjis": "cp932",
    "tis620": "tis_620",
    "unicode": "utf_8",
    "utf8": "utf_8",
    "windows31j": "cp932",
    "windows874": "cp874",
    **{f"iso8859{part}": f"iso8859_{part}" for part in range(1, 17) if part != 12},
    **{f"latin{number}": f"latin{number}" for number in range(1, 11)},
    **{f"{maker}{page}": f"cp{page}" for maker in ("cp", "windows") for page in range(1250, 1259)},
}
"""Larger sets that include the named one: writers of the name mean these."""


def python_encodings(character_sets: Sequence[str]) -> tuple[str, ...]:
    """Return the Python encodings of Specific Character Set.

    Args:
        character_sets: the values of the attribute, in order; empty when it is absent.

    Returns:
        The encoding at the start of a text, then those that escape sequences switch to. The first
        is ASCII if the header names none, or an unknown one.
    """
    names = [name.strip(" \0") for name in character_sets]
    found = [_encoding_of(name) for name in names]
    first = found[0] if found and found[0] is not None else _ASCII
    return (first, *(encoding for encoding in found[1:] if encoding not in (None, _ASCII)))


def decode_text(raw: bytes, encodings: Sequence[str]) -> str | None:
    """Decode one value exactly.

    Args:
        raw: the value, without its padding.
        encodings: from `python_encodings`.

    Returns:
        The text; None if the bytes are not text of these sets. Without a named set, bytes beyond
        ASCII are tried as UTF-8, which is hardly ever valid by chance, and then as Latin 1.
    """
    if _ESCAPE in raw:
        return _exact(lambda: _decode_fragments(raw, encodings))
    if raw.isascii():
        return raw.decode(_ASCII)
    first, *others = encodings
    candidates = (*others, *_UNDECLARED) if first == _ASCII else (first, "utf_8")
    texts = (_exact(partial(raw.decode, name)) for name in candidates)
    return next((text for text in texts if text is not None), None)


def has_controls(text: str, *, are_lines_allowed: bool = False) -> bool:
    """Return whether a text holds control characters.

    Args:
        text: any text.
        are_lines_allowed: whether tabs and line ends are allowed (VR ST, LT and UT).
    """
    checked = _LINE_BREAKS.sub("", text) if are_lines_allowed else text
    return _CONTROL.search(checked) is not None


def _encoding_of(name: str) -> str | None:
    """Return the Python encoding of one term, ASCII for the default repertoire."""
    spelled = re.sub(r"[\s_-]+", " ", name.upper())
    number = spelled.removeprefix("ISO ").removeprefix("2022 ")
    for known in (spelled, f"ISO_{number}", f"ISO 2022 {number}"):
        if known in python_encoding:
            encoding = python_encoding[known]
            return _ASCII if encoding == default_encoding else encoding
    return _FOREIGN_NAMES.get(spelled.replace(" ", "").lower())


def _exact(decode: Callable[[], str]) -> str | None:
    try:
        text = decode()
    except (UnicodeError, LookupError):
        return None
    return None if _ESCAPE_OR_C1.search(text) else text


def _decode_fragments(raw: bytes, encodings: Sequence[str]) -> str:
    return "".join(_decode_fragment(piece, encodings[0]) for piece in _FRAGMENT.findall(raw))


def _decode_fragment(fragment: bytes, first: str) -> str:
    """Decode the bytes between one escape sequence and the next.

    The sequence alone decides the set, whether the header lists it or not.
    """
    if not fragment.startswith(_ESCAPE):
        return fragment.decode(first)
    length = 4 if fragment.startswith((b"\x1b$(", b"\x1b$)")) else 3
    encoding = CODES_TO_ENCODINGS.get(fragment[:length])
    if encoding is None:
        raise UnicodeError("an escape sequence that DICOM does not know")
    if encoding in _READS_ITS_ESCAPES:
        return fragment.decode(encoding)
    rest = fragment[length:]
    if encoding == default_encoding:
        return rest.decode(first if first != "shift_jis" else _ASCII)
    end = next((place for place, byte in enumerate(rest) if byte in _RESETS), len(rest))
    return rest[:end].decode(encoding) + rest[end:].decode(first)
