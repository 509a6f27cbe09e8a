"""The queue of waiting requests, which leave it in batches.

A batch has the waiting requests, at most `max_batch`. Under load it can pay to wait a little for
more. The window opens when the *first* request of the batch was queued, not when the worker looks.
So no request waits longer than the window for others. The window is used only while requests come
faster than one a window, by a moving average of their intervals; a single request leaves at once.
Callers with waiting requests take turns.
"""

from __future__ import annotations

import threading
import time
from typing import Generic, Protocol, TypeVar

from service.caller_turns import CallerTurns

_WEIGHT_OF_NEWEST = 0.5
_LONGEST_DISTANCE_S = 1.0


class Queued(Protocol):
    """An item of the queue."""

    queued_at: float
    """`time.perf_counter()` when it was queued."""

    caller: str
    """The caller whose turns it uses."""


Item = TypeVar("Item", bound=Queued)


class BatchQueue(Generic[Item]):
    """First in, first out for each caller, callers in turn, in batches. Thread-safe."""

    def __init__(self, max_batch: int, window_s: float) -> None:
        """Make an empty queue.

        Args:
            max_batch: most items in a batch.
            window_s: longest time that the first item of a batch waits for others.
        """
        self._max_batch = max_batch
        self._window_s = window_s
        self._items: CallerTurns[Item] = CallerTurns()
        self._changed = threading.Condition()
        self._is_closed = False
        self._distance_s = _LONGEST_DISTANCE_S
        self._last_queued_at = -_LONGEST_DISTANCE_S

    @property
    def has_due(self) -> bool:
        """Whether a batch would leave now."""
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
            self._items.put(item.caller, item)
            self._changed.notify()
            return True

    def remove(self, item: Item) -> None:
        """Remove an item; do nothing if it is absent."""
        with self._changed:
            self._items.remove(item.caller, item)

    def empty(self) -> list[Item]:
        """Remove and return everything."""
        with self._changed:
            return self._items.empty()

    def close(self) -> None:
        """Accept no more items; waiting ones stay for `empty`."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def take(self, timeout_s: float, most: int | None = None) -> list[Item] | None:
        """Wait for a batch.

        Args:
            timeout_s: most seconds to wait.
            most: most items wanted, where that is fewer than a batch has.

        Returns:
            Items of a batch; an empty list after `timeout_s` seconds without one; None when the
            queue is closed.
        """
        give_up_at = time.perf_counter() + max(0.0, timeout_s)
        with self._changed:
            while not self._is_closed:
                now = time.perf_counter()
                wait_until = self._leave_at() if self._items else give_up_at
                if now >= wait_until:
                    return self._popped(most)
                self._changed.wait(wait_until - now)
        return None

    def take_due(self, most: int | None = None) -> list[Item]:
        """Take the batch that would leave now, without waiting; an empty list without one.

        Args:
            most: most items wanted, where that is fewer than a batch has.
        """
        with self._changed:
            return self._popped(most) if self._is_due() else []

    def _is_due(self) -> bool:
        is_open = bool(self._items) and not self._is_closed
        return is_open and time.perf_counter() >= self._leave_at()

    def _popped(self, most: int | None) -> list[Item]:
        taken = (self._items.take() for _ in range(min(self._max_batch, most or self._max_batch)))
        return [item for item in taken if item is not None]

    def _leave_at(self) -> float:
        first = min(item.queued_at for item in self._items.oldest())
        expects_company = self._distance_s < self._window_s
        if len(self._items) >= self._max_batch or not expects_company:
            return first
        return first + self._window_s
