"""An orderly stop: a signal requests it, and the loop stops between two steps.

Schedulers announce a preemption by SIGTERM, and people press Ctrl-C. In both cases the current step
is finished and a checkpoint is written. A second signal ends the process at once.

Python runs signal handlers between two instructions, and the backward pass of a large model on a
CPU is one instruction of minutes. So a thread counts the signals: the system tells it of each
without waiting for the step.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any

STOPPING = (signal.SIGTERM, signal.SIGINT)

SAME_REQUEST_S = 1.0
"""Seconds within which further signals belong to the first: ``timeout`` and ``torchrun`` send one
to the process and another to its group."""

_FAILED_BY_SIGNAL = 128
_END_OF_WATCH = b"\0"


class StopRequest:
    """Remembers the first stop signal within a ``with`` block; a second one ends the process."""

    def __init__(self) -> None:
        """Start without a signal; `__enter__` installs the handlers."""
        self.signal: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}
        self._wakeup_before = -1
        self._reader = self._writer = -1
        self._watch = threading.Thread(target=self._count, name="stop signals", daemon=True)

    def __call__(self) -> bool:
        """Return whether a signal came."""
        return self.signal is not None

    def __enter__(self) -> StopRequest:
        """Install the handlers and start the thread."""
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._watch.start()
        self._wakeup_before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, _do_nothing) for number in STOPPING}
        return self

    def __exit__(self, *_: object) -> None:
        """Restore the former handlers and end the thread."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        os.write(self._writer, _END_OF_WATCH)  # worker processes may hold copies of the pipe
        self._watch.join()
        os.close(self._reader)
        os.close(self._writer)

    def _count(self) -> None:
        first_at_s = 0.0
        while (told := os.read(self._reader, 1)) != _END_OF_WATCH:
            if told[0] not in STOPPING:
                continue
            if self.signal is None:
                self.signal, first_at_s = signal.Signals(told[0]), time.monotonic()
                print(
                    f"{self.signal.name}: stops after this step, with a checkpoint; "
                    "another signal ends at once, without",
                    file=sys.stderr,
                )
            elif time.monotonic() - first_at_s >= SAME_REQUEST_S:
                os._exit(_FAILED_BY_SIGNAL + told[0])


def _do_nothing(number: int, frame: FrameType | None) -> None:
    """Let the system report the signal to the thread, which it does only beside a handler."""
