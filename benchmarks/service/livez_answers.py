"""The slowest answer of `/livez` during a measurement, to a caller that does nothing else.

`python -m benchmarks.service.livez_answers PORT` requests `/livez` every 20 ms, each time on a new
connection, until its standard input is closed. Then it prints the slowest answer, and when that
came, as JSON. It has a process of its own: in one with other callers, the time would include
waiting for their threads.
"""

from __future__ import annotations

import contextlib
import http.client
import sys
import time

from benchmarks.service.lateness import Lateness, watch

PERIOD_S = 0.02
TIMEOUT_S = 60.0


def main() -> int:
    """Request until standard input is closed, then print."""
    port = int(sys.argv[1])

    def answered() -> Lateness:
        began = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
        with contextlib.closing(connection), contextlib.suppress(OSError):  # its time counts, too
            connection.request("GET", "/livez")
            connection.getresponse().read()
        now = time.monotonic()
        return Lateness(now - began, now)

    return watch(PERIOD_S, answered)


if __name__ == "__main__":
    sys.exit(main())
