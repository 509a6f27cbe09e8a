"""A process that waits for its signal to stop ends, however many come at once."""

from __future__ import annotations

import signal
import subprocess
import sys

PROGRAM = """
import os, signal
from service.stop_signals import StopSignals
stopped = StopSignals([signal.SIGTERM, signal.SIGINT])
print("waiting", flush=True)
while not stopped.wait(0.001):
    pass
for _ in range(20000):  # signals go on to come while it ends
    assert stopped.is_set() and stopped.wait(0.001)
os._exit(0)  # the interpreter's own end gives handlers up
"""


def test_a_storm_of_signals_stops_a_process_once_and_for_all() -> None:
    for _ in range(3):
        command = [sys.executable, "-c", PROGRAM]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None and process.stdout.readline() == "waiting\n"
            for _ in range(300):
                process.send_signal(signal.SIGTERM)
                process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0
