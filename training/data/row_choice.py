"""Evenly spread rows of a data set, for a first look."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from training.data.dataset import DataRow
from training.errors import ConfigError


class _OfSource(Protocol):
    @property
    def source(self) -> str: ...


Row = TypeVar("Row", bound=_OfSource)


def limited(rows: Sequence[DataRow], limit: int) -> list[DataRow]:
    """Return up to ``limit`` rows of each data set, as ``--limit`` asks; 0 takes all.

    Raises:
        ConfigError: The limit is negative.
    """
    if limit < 0:
        raise ConfigError(f"--limit is {limit}; it must be at least 0")
    return spread(rows, limit)


def check_whole(limit: int, *, stores: bool) -> None:
    """Refuse to store measurements of some rows, because a card describes the whole split.

    Raises:
        ConfigError: Both are requested.
    """
    if limit and stores:
        raise ConfigError(
            f"--limit {limit} measures a part of the split, which --store would write into the "
            "card as the whole; leave one of them out"
        )


def spread(rows: Sequence[Row], per_source: int) -> list[Row]:
    """Return up to ``per_source`` rows or X-rays of each data set, evenly spread; 0 takes all."""
    chosen: list[Row] = []
    for source in dict.fromkeys(row.source for row in rows):
        own = [row for row in rows if row.source == source]
        count = min(per_source, len(own)) if per_source else len(own)
        chosen += [own[place * len(own) // count] for place in range(count)]
    return chosen
