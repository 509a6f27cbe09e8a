"""Progress of a measurement on stderr, because stdout has its result."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from training.data.dataset import DataRow

Watch = Callable[[Sequence[DataRow], str], Iterable[DataRow]]
"""Yields rows one by one, and shows how many were used."""


def unwatched(rows: Sequence[DataRow], _: str) -> Iterable[DataRow]:
    """Yield the rows and show nothing."""
    return rows


def progress_bar(rows: Sequence[DataRow], title: str) -> Iterable[DataRow]:
    """Yield the rows with a progress bar on stderr."""
    from rich.console import Console
    from rich.progress import track

    return track(rows, title, console=Console(stderr=True))
