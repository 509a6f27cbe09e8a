"""The longest delay of an idle process: the lower limit of any delay on this machine.

`python -m benchmarks.service.idle_lateness` sleeps for some milliseconds repeatedly until its
standard input is closed. Then it prints its longest delay, and when that occurred, as JSON. A
service on the same machine cannot answer faster than that.
"""

from __future__ import annotations

import sys
import time

from benchmarks.service.lateness import Lateness, watch

NAP_S = 0.005


def main() -> int:
    """Sleep until standard input is closed, then print."""
    last = time.monotonic()

    def overslept() -> Lateness:
        nonlocal last
        before, last = last, time.monotonic()
        return Lateness(last - before - NAP_S, last)

    return watch(NAP_S, overslept)


if __name__ == "__main__":
    sys.exit(main())
