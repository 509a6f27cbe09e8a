"""Whether a signal told this process to stop, also when several come at once.

A handler may interrupt another one, or whatever the main thread is doing, at any bytecode. An
`Event` takes a lock that is not reentrant, so its `set` in a handler can block without end. The
`put` of a `SimpleQueue` is reentrant.
"""

from __future__ import annotations

import contextlib
import queue
import signal
from collections.abc import Iterable


class StopSignals:
    """The signals that stop this process; belongs to the main thread."""

    def __init__(self, numbers: Iterable[signal.Signals]) -> None:
        """Handle these signals from now on."""
        self._is_set = False
        self._came: queue.SimpleQueue[None] = queue.SimpleQueue()
        for number in numbers:
            signal.signal(number, lambda *_: self._note())

    def is_set(self) -> bool:
        """Return whether one of them has come."""
        return self._is_set

    def wait(self, timeout_s: float) -> bool:
        """Wait for one of them, at most so long; return whether one has come."""
        if not self._is_set:
            with contextlib.suppress(queue.Empty):
                self._came.get(timeout=timeout_s)
        return self._is_set

    def _note(self) -> None:
        self._is_set = True
        self._came.put(None)
