"""An orderly stop: a signal requests it, and the loop stops between two steps.

Schedulers announce a preemption by SIGTERM, and people press Ctrl-C. In both cases the current step
is finished and a checkpoint is written. A second signal stops at once.
"""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

STOPPING = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """Remembers the first stop signal within a ``with`` block."""

    def __init__(self) -> None:
        """Start without a signal; `__enter__` installs the handlers."""
        self.signal: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __call__(self) -> bool:
        """Return whether a signal came."""
        return self.signal is not None

    def __enter__(self) -> StopRequest:
        """Install the handlers."""
        self._before = {number: signal.signal(number, self._remember) for number in STOPPING}
        return self

    def __exit__(self, *_: object) -> None:
        """Restore the former handlers."""
        self._stop_listening()

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        self._stop_listening()  # the second signal has its usual effect

    def _stop_listening(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
