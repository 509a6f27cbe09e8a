"""Fair turns: callers with waiting items are served in turn, each caller's oldest item first.

So a caller that sends eight requests at a time waits for eight turns, and delays every other caller
by only one. Where there is no queue (a worker's time, a slot in the service), no single caller may
hold the last quarter while others send requests.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

SERVICE = ""
"""Caller of the service's own requests."""

Item = TypeVar("Item")


def most_of_one(places: int) -> int:
    """Return how many of all places one caller may hold while others are active: three quarters."""
    return max(1, places - -(-places // 4))


class RecentCallers:
    """The callers of the latest seconds."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Start without callers.

        Args:
            seconds: how long a caller counts as active after it was noted.
            clock: monotonic clock, in seconds.
        """
        self._seconds = seconds
        self._clock = clock
        self._noted_at: OrderedDict[str, float] = OrderedDict()  # the latest last

    def note(self, caller: str) -> None:
        """Note a request of a caller; the service itself does not count."""
        if caller != SERVICE:
            self._noted_at[caller] = self._clock()
            self._noted_at.move_to_end(caller)

    @property
    def are_several(self) -> bool:
        """Whether more than one caller is active."""
        oldest = self._clock() - self._seconds
        while self._noted_at and next(iter(self._noted_at.values())) < oldest:
            self._noted_at.popitem(last=False)
        return len(self._noted_at) > 1


def _any(item: object) -> bool:
    return True


class CallerTurns(Generic[Item]):
    """Waiting items by caller; a caller goes behind the others after its turn.

    It stores only callers with waiting items, so it cannot grow without bound.
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
        """Put back an item that was taken but not begun: it is next again."""
        self._lines.setdefault(caller, deque()).appendleft(item)
        self._lines.move_to_end(caller, last=False)

    def take(self, may: Callable[[Item], bool] = _any) -> Item | None:
        """Take the next item; None when there is none.

        Args:
            may: whether an item may go now; others keep their places.
        """
        for caller, line in self._lines.items():
            found = next((item for item in line if may(item)), None)
            if found is not None:
                self._take_out(caller, found)
                return found
        return None

    def remove(self, caller: str, item: Item) -> None:
        """Remove an item that no longer waits; do nothing if it is absent."""
        line = self._lines.get(caller)
        if line is None or item not in line:
            return
        line.remove(item)
        if not line:
            del self._lines[caller]

    def empty(self) -> list[Item]:
        """Remove all items, each caller's together."""
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
