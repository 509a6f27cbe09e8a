"""Read single header values by the rules of their value representation (PS3.5 6.2).

A value that breaks its rules is not repaired: a sex `m` or a birth date `00000000` would need a
guess, and archives match patients by these values. Such a value counts as absent. Only padding is
removed.
"""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException
from pydicom.multival import MultiValue
from pydicom.valuerep import PersonName

from service.imaging.dicom_text import decode_text, has_controls, python_encodings

_PADDING = " \0\t\r\n"
_CODE = re.compile(r"[A-Z0-9 _]{1,16}")
_DATE = re.compile(r"\d{8}", re.ASCII)
_TIME = re.compile(r"([01]\d|2[0-3])([0-5]\d([0-5]\d(\.\d{1,6})?)?)?", re.ASCII)
_AGE = re.compile(r"\d{3}[DWMY]", re.ASCII)
_DECIMAL = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_UID = re.compile(r"\d+(\.\d+)*", re.ASCII)
_LONGEST_UID = 64
_LONGEST_DECIMAL = 16
_LONGEST_NAME_GROUP = 64
# Exceptions that pydicom raises for elements whose bytes do not fit their representation.
_CONVERSION_ERRORS = (
    ArithmeticError,
    AttributeError,
    BytesLengthException,
    LookupError,
    NotImplementedError,
    TypeError,
    ValueError,
)


class HeaderValues:
    """Reads the strings of one header exactly, whatever their character set.

    Args:
        dataset: the header. It is not changed.
    """

    def __init__(self, dataset: Dataset) -> None:
        """Read the header's character sets."""
        self._dataset = dataset
        names = [name or "" for name in self._texts("SpecificCharacterSet", ("ascii",)) or ()]
        self._encodings = python_encodings(names)

    def one(self, keyword: str, representation: str) -> str | None:
        """Return the single valid value of an attribute.

        Args:
            keyword: the attribute.
            representation: its value representation, such as `DA`.

        Returns:
            The value; None if it is absent, empty, multiple, or breaks its rules.
        """
        found = self.several(keyword, representation)
        return found[0] if len(found) == 1 else None

    def several(self, keyword: str, representation: str) -> tuple[str, ...]:
        """Return the values of an attribute, if each of them is valid.

        Args:
            keyword: the attribute.
            representation: its value representation.

        Returns:
            The values in order; none if any is empty or breaks its rules.
        """
        is_valid = _RULES[representation]
        is_undivided = representation in _UNDIVIDED
        texts = self._texts(keyword, self._encodings, is_undivided=is_undivided)
        if not texts or any(text is None or not text or not is_valid(text) for text in texts):
            return ()
        return tuple(text for text in texts if text is not None)

    def numbers(self, keyword: str) -> tuple[float, ...]:
        """Return the decimal values of an attribute; none if any is not a finite number."""
        return tuple(float(text) for text in self.several(keyword, "DS"))

    def _texts(
        self, keyword: str, encodings: Sequence[str], *, is_undivided: bool = False
    ) -> list[str | None] | None:
        """Return the texts of an attribute, None for each that cannot be decoded."""
        value = self._stored(keyword)
        if isinstance(value, bytes):
            return _split(value, encodings, is_undivided=is_undivided)
        if value is None:
            return None
        several = isinstance(value, (list, tuple, MultiValue))
        return [_text_of(one, encodings) for one in (value if several else [value])]

    def _stored(self, keyword: str) -> Any:
        """Return the bytes of an element, or the value that pydicom already converted."""
        try:
            element = self._dataset.get_item(keyword)
        except _CONVERSION_ERRORS:
            return None
        return None if element is None else element.value


def is_uid(text: str) -> bool:
    """Return whether a text can be a UID.

    A component that begins with zero breaks PS3.5 9.1, but such images exist and have no other
    identifier.
    """
    return len(text) <= _LONGEST_UID and _UID.fullmatch(text) is not None


def _split(value: bytes, encodings: Sequence[str], *, is_undivided: bool) -> list[str | None]:
    """Split at backslashes after decoding, because Japanese characters can contain that byte."""
    text = decode_text(value.rstrip(b" \0"), encodings)
    if text is None:
        return [None]
    pieces = [text] if is_undivided else text.split("\\")
    return [piece.strip(_PADDING) for piece in pieces]


def _text_of(value: Any, encodings: Sequence[str]) -> str | None:
    """Return the text of a value that pydicom converted."""
    if isinstance(value, PersonName):
        original = value.original_string
        value = original if isinstance(original, bytes) else str(value)
    elif hasattr(value, "original_string"):  # DS and IS keep the original text
        value = value.original_string
    if isinstance(value, bytes):
        return decode_text(value.rstrip(b" \0"), encodings)
    text = "" if value is None else str(value).strip(_PADDING)
    return None if "\N{REPLACEMENT CHARACTER}" in text else text


def _is_date(text: str) -> bool:
    if not _DATE.fullmatch(text):
        return False
    try:
        datetime.date(int(text[:4]), int(text[4:6]), int(text[6:]))
    except ValueError:
        return False
    return True


def _is_decimal(text: str) -> bool:
    is_written = len(text) <= _LONGEST_DECIMAL and _DECIMAL.fullmatch(text) is not None
    return is_written and math.isfinite(float(text))


def _is_name(text: str) -> bool:
    groups = text.split("=")
    return (
        len(groups) <= 3
        and all(len(group) <= _LONGEST_NAME_GROUP for group in groups)
        and all(group.count("^") <= 4 for group in groups)
        and not has_controls(text)
    )


def _short(longest: int) -> Callable[[str], bool]:
    return lambda text: len(text) <= longest and not has_controls(text)


_RULES: dict[str, Callable[[str], bool]] = {
    "AS": lambda text: _AGE.fullmatch(text) is not None,
    "CS": lambda text: _CODE.fullmatch(text) is not None,
    "DA": _is_date,
    "DS": _is_decimal,
    "LO": _short(64),
    "LT": lambda text: len(text) <= 10240 and not has_controls(text, are_lines_allowed=True),
    "PN": _is_name,
    "SH": _short(16),
    "TM": lambda text: _TIME.fullmatch(text) is not None,
    "UI": is_uid,
}
_UNDIVIDED = frozenset({"LT"})
