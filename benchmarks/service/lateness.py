"""Processes that watch for the longest delay during a measurement.

Such a process is a module of this package. It prints a line when it runs, watches until its
standard input is closed, and then prints its longest delay as JSON.
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Lateness:
    """The longest delay.

    Attributes:
        seconds: length of the delay.
        ended_at: `time.monotonic()` at its end.
    """

    seconds: float
    ended_at: float


NOT_LATE = Lateness(0.0, 0.0)


class Watcher:
    """A process that watches during a measurement; `process_id` is its own."""

    def __init__(self, module: str, *arguments: str) -> None:
        """Start the process and wait until it runs."""
        command = [sys.executable, "-m", module, *arguments]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.process_id = self._process.pid
        assert self._process.stdout is not None
        self._process.stdout.readline()

    def worst(self) -> Lateness:
        """End the process and return its longest delay."""
        said, _ = self._process.communicate()
        return Lateness(**json.loads(said))


def watch(period_s: float, delay: Callable[[], Lateness]) -> int:
    """Measure a delay in each period until standard input is closed, print the longest, return 0.

    Args:
        period_s: seconds to sleep before each measurement.
        delay: measures one.
    """
    worst = NOT_LATE
    print("ready", flush=True)
    while not select.select([sys.stdin], [], [], period_s)[0]:
        worst = max(worst, delay(), key=lambda one: one.seconds)
    print(json.dumps(vars(worst)))
    return 0
