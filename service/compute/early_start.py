"""The first compute process, started before the serving process imports its own modules.

The imports of the compute process take most of the start and need no settings. Afterwards it waits
for its settings. This module imports little, so that it can run first.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
from collections.abc import Mapping

from service.child_process import start_child
from service.compute.visible_gpus import environment_of

STORED_MODEL = "service.compute.stored_model:make_stored_model"
_MODULE = "service.compute.compute_process"

Started = tuple[socket.socket, subprocess.Popen[bytes]]
"""Our end of the socket pair, and the process."""


class EarlyStart:
    """A compute process that still waits for its settings. Thread-safe."""

    def __init__(self, device: str) -> None:
        """Start it, if the system has a process now.

        Args:
            device: where the model will run; with `cuda:N` the process sees only that GPU.
        """
        self._lock = threading.Lock()
        self._environment = environment_of(device, os.environ.get("CUDA_VISIBLE_DEVICES"))
        self._started: Started | None = None
        with contextlib.suppress(OSError):  # `compute_child` tries again and reports the reason
            self._started = start_compute_process(STORED_MODEL, self._environment)

    def take(self, source: str, environment: Mapping[str, str]) -> Started | None:
        """Return the process to the first caller with the same arguments, otherwise None.

        Args:
            source: `module:function` that makes the model.
            environment: variables that the process must have.
        """
        with self._lock:
            if source != STORED_MODEL or environment != self._environment:
                return None
            started, self._started = self._started, None
            return started

    def close(self) -> None:
        """End it unless it was taken."""
        with self._lock:
            started, self._started = self._started, None
        if started is not None:
            connection, process = started
            connection.close()
            process.kill()
            process.wait()


def start_compute_process(source: str, environment: Mapping[str, str]) -> Started:
    """Start a compute process, which imports the model's code and then waits for its settings.

    Args:
        source: `module:function` that makes the model.
        environment: variables beside those of this process.

    Raises:
        OSError: no process is available.
    """
    return start_child(_MODULE, [source], environment)
