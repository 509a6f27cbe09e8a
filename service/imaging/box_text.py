"""Parse a caller's box: `x0,y0,x1,y1` in pixels of the decoded image."""

from __future__ import annotations

import re

from model_store.boxes import MOST_ROUNDING_PX, Box
from service.errors import InvalidBox

__all__ = ["DECIMAL_NUMBER", "MAX_BOX_TEXT_LENGTH", "Box", "parse_box"]

MAX_BOX_TEXT_LENGTH = 256
"""Longer texts are refused before any number in them is read."""

DECIMAL_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")
"""Plain decimal numbers. `float` alone would also take "1_0", "١", "infinity" and "nan"."""
_NOT_FINITE = re.compile(r"[+-]?(?:nan|inf|infinity)", re.IGNORECASE)
_FORM = "write x0,y0,x1,y1 (left, top, right, bottom), for example 0,0,512,512"


def parse_box(text: str) -> Box:
    """Return the four numbers of a box, checked by themselves.

    The image is not known yet; `model_store.boxes.validate_box` checks later whether the box is
    inside.

    Args:
        text: four decimal numbers with commas between; blanks around a number are ignored.

    Returns:
        `(x0, y0, x1, y1)` in pixels, half-open, with x0 < x1 and y0 < y1.

    Raises:
        InvalidBox: not four numbers, not finite, negative, or inverted.
    """
    if len(text) > MAX_BOX_TEXT_LENGTH:
        raise InvalidBox(f"The box is longer than {MAX_BOX_TEXT_LENGTH} characters; {_FORM}.")
    fields = [field.strip(" \t") for field in text.split(",")]
    if len(fields) != 4:
        raise InvalidBox(f"A box has 4 numbers, but {len(fields)} came; {_FORM}.")
    x0, y0, x1, y1 = (_parse_number(field) for field in fields)
    if min(x0, y0) < -MOST_ROUNDING_PX:
        raise InvalidBox("The box starts outside the image: x0 and y0 must not be negative.")
    if x0 >= x1 or y0 >= y1:
        raise InvalidBox(f"The box is empty or inverted: x0 < x1 and y0 < y1 must hold; {_FORM}.")
    return x0, y0, x1, y1


def _parse_number(field: str) -> float:
    if _NOT_FINITE.fullmatch(field):
        raise InvalidBox("The numbers of a box must be finite.")
    if not DECIMAL_NUMBER.fullmatch(field):
        raise InvalidBox(f"A box holds something that is not a decimal number; {_FORM}.")
    value = float(field)
    if value in (float("inf"), float("-inf")):
        raise InvalidBox("The numbers of a box must be finite.")
    return value
