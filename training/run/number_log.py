"""The interface of further logs of a run's numbers: TensorBoard and MLflow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol


class NumberLog(Protocol):
    """Receives the numbers of each event of a run."""

    def write(self, event: str, values: Mapping[str, Any]) -> None:
        """Add the numbers of one event at its step; an event without a step has none.

        Raises:
            OSError: They could not be written.
        """


def numbers_of(event: str, values: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield the names and numbers of an event, ``event/table/row`` for tables; no settings."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            if name != "config":
                yield from numbers_of(f"{event}/{name}", value)
        elif isinstance(value, (int, float)) and name != "step":
            yield f"{event}/{name}", float(value)
