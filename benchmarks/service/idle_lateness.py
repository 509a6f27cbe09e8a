"""The longest delay of an idle process: the lower limit of any delay on this machine.

`python -m benchmarks.service.idle_lateness` sleeps for some milliseconds repeatedly until its
standard input is closed. Then it prints its longest delay, and when that occurred, as JSON. A
service on the same machine cannot answer faster than that.
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
import time
from dataclasses import dataclass

NAP_S = 0.005


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


class IdleProcess:
    """An idle process that runs during a measurement."""

    def __init__(self) -> None:
        """Start the process and wait until it runs."""
        command = [sys.executable, "-m", __name__]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        self._process.stdout.readline()

    def worst(self) -> Lateness:
        """End the process and return its longest delay."""
        said, _ = self._process.communicate()
        return Lateness(**json.loads(said))


def main() -> int:
    """Sleep until standard input is closed, then print."""
    worst, last = NOT_LATE, time.monotonic()
    print("ready", flush=True)
    while not select.select([sys.stdin], [], [], NAP_S)[0]:
        now = time.monotonic()
        if now - last - NAP_S > worst.seconds:
            worst = Lateness(now - last - NAP_S, now)
        last = now
    print(json.dumps(vars(worst)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
