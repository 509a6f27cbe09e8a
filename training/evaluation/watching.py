"""How far a measurement has come, on stderr: stdout is its result."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from training.data.dataset import DataRow

Watch = Callable[[Sequence[DataRow], str], Iterable[DataRow]]
"""Gives the rows on one by one, and shows how many of them a measurement has asked for."""


def unwatched(rows: Sequence[DataRow], _: str) -> Iterable[DataRow]:
    """Give the rows on and show nothing."""
    return rows


def progress_bar(rows: Sequence[DataRow], title: str) -> Iterable[DataRow]:
    """Give the rows on behind a bar on stderr."""
    from rich.console import Console
    from rich.progress import track

    return track(rows, title, console=Console(stderr=True))
