"""The slowest answer of `/livez` during a measurement, to a caller that does nothing else.

`python -m benchmarks.service.livez_answers PORT` requests `/livez` every 20 ms, each time on a new
connection, until its standard input is closed. Then it prints the slowest answer, and when that
came, as JSON. It has a process of its own: in one with other callers, the time would include
waiting for their threads.
"""

from __future__ import annotations

import http.client
import json
import select
import subprocess
import sys
import time

from benchmarks.service.idle_lateness import NOT_LATE, Lateness

PERIOD_S = 0.02
TIMEOUT_S = 60.0


class LivezCaller:
    """A process that requests `/livez` during a measurement."""

    def __init__(self, port: int) -> None:
        """Start the process and wait until it runs; the service is on the loopback interface."""
        command = [sys.executable, "-m", __name__, str(port)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        self._process.stdout.readline()

    def worst(self) -> Lateness:
        """End the process and return its slowest answer."""
        said, _ = self._process.communicate()
        return Lateness(**json.loads(said))


def main() -> int:
    """Request until standard input is closed, then print."""
    port, worst = int(sys.argv[1]), NOT_LATE
    print("ready", flush=True)
    while not select.select([sys.stdin], [], [], PERIOD_S)[0]:
        began = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
        try:
            connection.request("GET", "/livez")
            connection.getresponse().read()
        except OSError:  # it counts with the time that it took
            pass
        finally:
            connection.close()
        now = time.monotonic()
        if now - began > worst.seconds:
            worst = Lateness(now - began, now)
    print(json.dumps(vars(worst)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
