"""Turns of several models on the CPUs: only as many compute at a time as the CPUs can hold.

Each model has a process and threads of its own, as many as there are CPUs available. If all
computed at once, their threads would compete for cores, and one waiting thread delays its whole
model (`service.cpu_allowance` has figures). Turns go in the order of request, so no model waits for
more than one batch of each other model.
"""

from __future__ import annotations

import threading
import time
from collections import deque

LONGEST_TURN_S = 10.0
"""A model that computes longer is hung or large: others then compute beside it."""
_LOOK_INTERVAL_S = 0.25


class CpuTurns:
    """Gives turns, first come first served. Thread-safe."""

    def __init__(self, places: int, longest_s: float = LONGEST_TURN_S) -> None:
        """Start with every place free.

        Args:
            places: models that may compute at a time.
            longest_s: seconds after which a turn no longer delays others.
        """
        self._places = places
        self._longest_s = longest_s
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()
        self._taken: dict[object, float] = {}

    def take(self) -> object:
        """Wait for a turn.

        Returns:
            The turn, for `give_back`.
        """
        turn = object()
        with self._changed:
            self._waiting.append(turn)
            while self._waiting[0] is not turn or not self._has_place():
                self._changed.wait(_LOOK_INTERVAL_S)
            self._waiting.popleft()
            self._taken[turn] = time.monotonic()
            self._changed.notify_all()
        return turn

    def give_back(self, turn: object) -> None:
        """End a turn."""
        with self._changed:
            self._taken.pop(turn, None)
            self._changed.notify_all()

    def _has_place(self) -> bool:
        counts_from = time.monotonic() - self._longest_s
        return sum(began_at > counts_from for began_at in self._taken.values()) < self._places
