"""Parse a caller's convention."""

from __future__ import annotations

from model_store.conventions import CONVENTIONS, Convention
from service.errors import InvalidField


def parse_convention(text: str) -> Convention:
    """Return the convention of this name.

    Raises:
        InvalidField: there is none of this name.
    """
    for known in CONVENTIONS:
        if text == known:
            return known
    raise InvalidField(f"The field convention must be one of {', '.join(CONVENTIONS)}.")
