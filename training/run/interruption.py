"""An orderly stop: a signal requests it, and the loop stops between two steps.

Schedulers announce a preemption by SIGTERM, a person presses Ctrl-C. Either way the step at hand
is finished and a checkpoint written. A second signal stops at once.
"""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

STOPPING = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """Within a ``with`` block, remembers the first signal that asked to stop."""

    def __init__(self) -> None:
        """Wait for a signal from `__enter__` on."""
        self.signal: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __call__(self) -> bool:
        """Tell whether a signal came."""
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
        self._stop_listening()  # the second signal does what it always did

    def _stop_listening(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
