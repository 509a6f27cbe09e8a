"""The service compared with another version, request by request: milliseconds, memory, start.

`git worktree add FOLDER COMMIT && python -m benchmarks.service.beside_checkout FOLDER [--count N]`
starts the service of this checkout and of the other one, both with the other's default model. It
sends the same X-ray to both alternately, so other load on the machine affects both alike. It prints
each figure with its goal; the exit code is 1 if a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.processor import processor_name
from benchmarks.service.process_memory import tree_pss_bytes
from benchmarks.service.segment_latency import DEFAULT_IMAGE, WARM_UP_REQUESTS, png_of_size
from benchmarks.service.server_process import (
    RunningServer,
    ServerFailedError,
    running_server,
)

MOST_LATENCY, MOST_MEMORY, MOST_READY_S = 1.05, 1.15, 5.0
SETTLE_S = 2.0
_MB = 1e6


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print.

    Args:
        arguments: command-line arguments; those of the process when None.

    Returns:
        0, or 1 when a goal is missed.
    """
    parser = argparse.ArgumentParser(prog="beside_checkout")
    parser.add_argument("folder", type=Path, help="the other checkout")
    parser.add_argument("--count", type=int, default=150, help="requests to each")
    options = parser.parse_args(arguments)
    image = png_of_size(DEFAULT_IMAGE, 1024)
    try:
        with (
            started(None, options.folder) as (other, other_ready_s),
            started(model_of(other, options.folder), None) as (ours, ready_s),
        ):
            times = in_turns([ours, other], image, options.count)
            time.sleep(SETTLE_S)
            memory = [tree_pss_bytes(each.process.pid) for each in (ours, other)]
    except ServerFailedError as error:
        print(f"beside_checkout: {error}", file=sys.stderr)
        return 1
    medians_ms = [1000 * statistics.median(each) for each in times]
    latency, growth = medians_ms[0] / medians_ms[1], memory[0] / memory[1]
    print(f"on {processor_name()}, {options.count} requests to each, model of the other checkout\n")
    print(f"{'':24s}{'this':>10s}{'other':>10s}{'ratio':>8s}")
    rows: list[tuple[str, float, float, float, float]] = [
        ("one caller, median ms", medians_ms[0], medians_ms[1], latency, MOST_LATENCY),
        ("memory idle (PSS), MB", memory[0] / _MB, memory[1] / _MB, growth, MOST_MEMORY),
    ]
    for name, first, second, ratio, goal in rows:
        verdict = "met" if ratio <= goal else "MISSED"
        print(f"{name:24s}{first:10.1f}{second:10.1f}{ratio:8.3f}   goal at most {goal}: {verdict}")
    verdict = "met" if ready_s <= MOST_READY_S else "MISSED"
    print(f"{'ready after, s':24s}{ready_s:10.2f}{other_ready_s:10.2f}", end="")
    print(f"           goal at most {MOST_READY_S:g}: {verdict}")
    print(
        json.dumps({"latency": round(latency, 4), "memory": round(growth, 4), "ready_s": ready_s})
    )
    is_met = latency <= MOST_LATENCY and growth <= MOST_MEMORY and ready_s <= MOST_READY_S
    return 0 if is_met else 1


@contextmanager
def started(
    model: Path | None, folder: Path | None
) -> Generator[tuple[RunningServer, float], None, None]:
    """Start a checkout's service; yield it with the seconds until it was ready."""
    began_s = time.perf_counter()
    with running_server(model, folder=folder) as server:
        yield server, round(time.perf_counter() - began_s, 2)


def model_of(server: RunningServer, folder: Path) -> Path:
    """Return the folder of a checkout's default model."""
    model = server.readiness["model"]
    name, version = str(model["name"]), str(model["version"])
    return folder.resolve() / "model_store" / "models" / name / version


def in_turns(servers: Sequence[RunningServer], image: bytes, count: int) -> list[list[float]]:
    """Send an X-ray to the servers alternately; return the seconds of each answer.

    Raises:
        ServerFailedError: an answer has no mask.
    """
    times: list[list[float]] = [[] for _ in servers]
    for number in range(WARM_UP_REQUESTS + count):
        for server, taken in zip(servers, times, strict=True):
            answer = server.segment(image, {})
            if answer.status != 200:
                raise ServerFailedError(f"an answer has the status {answer.status}")
            if number >= WARM_UP_REQUESTS:
                taken.append(answer.seconds)
    return times


if __name__ == "__main__":
    sys.exit(main())
