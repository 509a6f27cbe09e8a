"""What tests ask and await of a service that runs in a process of its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import httpx

from benchmarks.service.server_process import RunningServer


def url(server: RunningServer, path: str) -> str:
    return f"http://127.0.0.1:{server.port}{path}"


def until(condition: Callable[[], bool], timeout_s: float = 60.0) -> float:
    """Waits for something to be true; returns how long it took, in seconds."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < timeout_s
        time.sleep(0.02)
    return time.monotonic() - began


def compute_processes(server: RunningServer) -> list[int]:
    """Process ids of the processes that run a network, one for each model and device."""
    parent = server.process.pid
    threads = Path(f"/proc/{parent}/task").iterdir()
    children = " ".join((thread / "children").read_text() for thread in threads).split()
    lines = {child: Path(f"/proc/{child}/cmdline").read_text() for child in children}
    return [int(child) for child, line in lines.items() if "compute_process" in line]


def compute_process(server: RunningServer) -> int:
    """Process id of the process that runs the network."""
    (found,) = compute_processes(server)
    return found


def metric(server: RunningServer, name: str) -> float:
    """The value of one sample of `/metrics`, named with its labels."""
    for line in httpx.get(url(server, "/metrics")).text.splitlines():
        if line.startswith(name + " "):
            return float(line.split()[1])
    raise AssertionError(f"no metric {name}")


def is_ready(server: RunningServer) -> bool:
    return httpx.get(url(server, "/readyz")).status_code == 200
