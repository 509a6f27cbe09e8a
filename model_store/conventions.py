"""The two ways in which people outline "the lungs" on a frontal X-ray.

SAM answers an ambiguous prompt with several mask tokens. Which outline a lung mask should follow is
such an ambiguity, so each convention has one mask token, trained only on masks of that convention.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

Convention = Literal["lung_field", "whole_lung"]
"""``lung_field``: the visible field, heart and mediastinum outside (JSRT, Montgomery, Shenzhen).
``whole_lung``: the lung behind the heart inside as well (V7)."""

CONVENTIONS: tuple[Convention, ...] = get_args(Convention)

DEFAULT_CONVENTION: Convention = "lung_field"


def default_of(known: Iterable[str]) -> Convention:
    """Return the convention that a model follows unless asked: the first that it knows."""
    names = set(known)
    return next(name for name in CONVENTIONS if name in names)


def token_of(convention: str) -> int:
    """Return the index of the mask token that follows ``convention``.

    Raises:
        ValueError: ``convention`` is not one of `CONVENTIONS`.
    """
    for index, name in enumerate(CONVENTIONS):
        if name == convention:
            return index
    raise ValueError(f"convention is {convention!r}; it must be one of {', '.join(CONVENTIONS)}")
