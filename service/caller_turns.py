"""Turns: of several callers' waiting items, each caller's oldest goes in turn.

A caller that sends eight requests at a time so waits eight times as long as one that sends one,
and nobody waits longer for it than for its one turn.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

SERVICE = ""
"""Caller of what the service does for itself."""

Item = TypeVar("Item")


def _any(item: object) -> bool:
    return True


class CallerTurns(Generic[Item]):
    """What waits, by caller; those who have had their turn go behind the others.

    Only callers with waiting items are known, so that nothing grows.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._lines: OrderedDict[str, deque[Item]] = OrderedDict()

    def __len__(self) -> int:
        """Return how many items wait."""
        return sum(len(line) for line in self._lines.values())

    def oldest(self) -> Iterator[Item]:
        """Yield each caller's oldest item, in the order of turns."""
        return (line[0] for line in self._lines.values())

    def put(self, caller: str, item: Item) -> None:
        """Add an item behind the others of its caller."""
        self._lines.setdefault(caller, deque()).append(item)

    def put_back(self, caller: str, item: Item) -> None:
        """Add an item that was taken and not begun: it is the next one again."""
        self._lines.setdefault(caller, deque()).appendleft(item)
        self._lines.move_to_end(caller, last=False)

    def take(self, may: Callable[[Item], bool] = _any) -> Item | None:
        """Take the next item; None when there is none.

        Args:
            may: says of an item whether it may go now; others keep their places.
        """
        for caller, line in self._lines.items():
            found = next((item for item in line if may(item)), None)
            if found is not None:
                self._take_out(caller, found)
                return found
        return None

    def remove(self, caller: str, item: Item) -> None:
        """Take out an item that no longer waits to go; one that is not there is left."""
        line = self._lines.get(caller)
        if line is None or item not in line:
            return
        line.remove(item)
        if not line:
            del self._lines[caller]

    def empty(self) -> list[Item]:
        """Take out all items, each caller's together."""
        items = [item for line in self._lines.values() for item in line]
        self._lines.clear()
        return items

    def _take_out(self, caller: str, item: Item) -> None:
        line = self._lines[caller]
        line.remove(item)
        if line:
            self._lines.move_to_end(caller)
        else:
            del self._lines[caller]
