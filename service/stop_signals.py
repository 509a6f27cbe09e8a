"""Signals that stop this process, safe when several arrive at once.

A handler may interrupt another handler or the main thread at any bytecode. An `Event` has a lock
that is not reentrant, so its `set` in a handler can block forever. The `put` of a `SimpleQueue` is
reentrant.
"""

from __future__ import annotations

import contextlib
import queue
import signal
from collections.abc import Iterable


class StopSignals:
    """Handlers of the signals that stop this process; for the main thread only."""

    def __init__(self, numbers: Iterable[signal.Signals]) -> None:
        """Handle these signals from now on."""
        self._is_set = False
        self._came: queue.SimpleQueue[None] = queue.SimpleQueue()
        for number in numbers:
            signal.signal(number, lambda *_: self._note())

    def is_set(self) -> bool:
        """Return whether a signal has arrived."""
        return self._is_set

    def wait(self, timeout_s: float) -> bool:
        """Wait for a signal until the timeout; return whether one has arrived."""
        if not self._is_set:
            with contextlib.suppress(queue.Empty):
                self._came.get(timeout=timeout_s)
        return self._is_set

    def _note(self) -> None:
        self._is_set = True
        self._came.put(None)
