"""The structures that a mask can show, and the mask token of each.

The lungs follow one of two conventions (`model_store.conventions`), each with its own token. Every
other structure has one token after theirs. A model's manifest lists the structures that it knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

from model_store.conventions import CONVENTIONS, token_of

Structure = Literal["lungs", "heart"]
"""``lungs``: both lungs by a convention. ``heart``: the cardiac silhouette without the roots of the
great vessels, as wingspan's annotators outlined it for the cardiothoracic ratio."""

STRUCTURES: tuple[Structure, ...] = get_args(Structure)

LUNGS: Structure = "lungs"
HEART: Structure = "heart"

STRUCTURE_TOKENS: Mapping[str, int] = {HEART: len(CONVENTIONS)}
"""Mask token of each structure that follows no convention."""


def mask_token(structure: str, convention: str) -> int:
    """Return the index of the mask token that segments a structure.

    Args:
        structure: A name in `STRUCTURES`.
        convention: Convention of the lungs; without effect for other structures.

    Raises:
        ValueError: The structure or the convention is unknown.
    """
    if structure == LUNGS:
        return token_of(convention)
    if structure not in STRUCTURE_TOKENS:
        raise ValueError(f"structure is {structure!r}; it must be one of {', '.join(STRUCTURES)}")
    return STRUCTURE_TOKENS[structure]
