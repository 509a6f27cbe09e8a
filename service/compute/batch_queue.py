"""The queue that requests wait in, and how many of them leave it together.

A batch is what waits, at most `max_batch`. Under load it may pay to wait a little for more: the
window opens when the *first* of the batch was queued, not when the worker comes to look, so a
request never waits longer than the window for company, and one that already waited that long goes
at once. Alone means at once, too: the window is used only while requests come faster than one a
window, which a moving average of their distances tells.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Generic, Protocol, TypeVar

_WEIGHT_OF_NEWEST = 0.5
_LONGEST_DISTANCE_S = 1.0


class Queued(Protocol):
    """What can wait in the queue."""

    queued_at: float
    """`time.perf_counter()` when it was queued."""


Item = TypeVar("Item", bound=Queued)


class BatchQueue(Generic[Item]):
    """First in, first out, in batches; safe from any thread."""

    def __init__(self, max_batch: int, window_s: float) -> None:
        """Make an empty queue.

        Args:
            max_batch: most items in a batch.
            window_s: longest time that the first item of a batch waits for others.
        """
        self._max_batch = max_batch
        self._window_s = window_s
        self._items: deque[Item] = deque()
        self._changed = threading.Condition()
        self._is_closed = False
        self._distance_s = _LONGEST_DISTANCE_S
        self._last_queued_at = -_LONGEST_DISTANCE_S

    @property
    def has_due(self) -> bool:
        """Whether there is a batch that would leave now."""
        with self._changed:
            return self._is_due()

    def put(self, item: Item) -> bool:
        """Add an item at the end; False when the queue is closed."""
        with self._changed:
            if self._is_closed:
                return False
            distance_s = min(item.queued_at - self._last_queued_at, _LONGEST_DISTANCE_S)
            self._distance_s += _WEIGHT_OF_NEWEST * (distance_s - self._distance_s)
            self._last_queued_at = item.queued_at
            self._items.append(item)
            self._changed.notify()
            return True

    def remove(self, item: Item) -> None:
        """Take an item out, wherever it is; nothing happens when it is not there."""
        with self._changed:
            if item in self._items:
                self._items.remove(item)

    def empty(self) -> list[Item]:
        """Take everything out."""
        with self._changed:
            items = list(self._items)
            self._items.clear()
            return items

    def close(self) -> None:
        """Let nothing in any more; what waits is left for `empty`."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def take(self, timeout_s: float) -> list[Item] | None:
        """Wait for a batch.

        Returns:
            One item or more; none when nothing came within `timeout_s` seconds; None when the
            queue is closed.
        """
        give_up_at = time.perf_counter() + max(0.0, timeout_s)
        with self._changed:
            while not self._is_closed:
                now = time.perf_counter()
                wait_until = self._leave_at() if self._items else give_up_at
                if now >= wait_until:
                    return self._popped()
                self._changed.wait(wait_until - now)
        return None

    def take_due(self) -> list[Item]:
        """Take the batch that would leave now; none when there is none, without waiting."""
        with self._changed:
            return self._popped() if self._is_due() else []

    def _is_due(self) -> bool:
        is_open = bool(self._items) and not self._is_closed
        return is_open and time.perf_counter() >= self._leave_at()

    def _popped(self) -> list[Item]:
        return [self._items.popleft() for _ in range(min(self._max_batch, len(self._items)))]

    def _leave_at(self) -> float:
        first = self._items[0].queued_at
        expects_company = self._distance_s < self._window_s
        if len(self._items) >= self._max_batch or not expects_company:
            return first
        return first + self._window_s
