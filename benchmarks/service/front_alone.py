"""The rate of the HTTP front alone: `python -m benchmarks.service.front_alone [--callers 8]`.

Workers and network answer immediately (`immediate_service`). What remains is the work of the front:
connections, uploads, admission, messages between processes and answers. Printed are requests a
second, and the processor time of each process for a request, as the kernel counts it. Callers on
the same machine share its cores, so the rate is below that of the front alone. The front's
processor time for a request shows what one core of its own would reach. Further flags go to the
server.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.processor import processor_name
from benchmarks.service.caller_processes import callers_in_processes
from benchmarks.service.front_costs import IMAGE_SIDE_PX, processor_seconds
from benchmarks.service.process_memory import process_tree
from benchmarks.service.segment_latency import DEFAULT_IMAGE, png_of_size
from benchmarks.service.server_process import RunningServer, ServerFailedError, running_server

PROGRAM = ("benchmarks.service.immediate_service",)
KINDS: Mapping[str, Mapping[str, str]] = {"png": {}, "none": {"overlay": "false"}}
"""Requested kinds of overlay."""
ROUNDS = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; returns 0, or 1 when an answer was not 200."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.service.front_alone")
    parser.add_argument("--callers", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each of three rounds")
    options, flags = parser.parse_known_args(arguments)
    image = png_of_size(DEFAULT_IMAGE, IMAGE_SIDE_PX)
    places = ["--queue-limit", str(max(64, 2 * options.callers))]
    print(f"{processor_name()}, {len(os.sched_getaffinity(0))} cores")
    report: dict[str, Any] = {}
    try:
        with running_server(None, [*places, *flags], program=PROGRAM) as server:
            for kind, fields in KINDS.items():
                report |= measured(server, image, kind, fields, options.callers, options.seconds)
    except ServerFailedError as error:
        print(f"front_alone: {error}", file=sys.stderr)
        return 1
    for name, value in report.items():
        print(f"{name:<34}{value}")
    print(json.dumps(report))
    return 0


def measured(
    server: RunningServer,
    image: bytes,
    kind: str,
    fields: Mapping[str, str],
    callers: int,
    seconds: float,
) -> dict[str, Any]:
    """Return the medians of rate and of each process's milliseconds for a request."""
    callers_in_processes(server.port, image, callers, 2.0, fields)  # each worker answers once
    rates: list[float] = []
    spent: list[Mapping[str, float]] = []
    for _ in range(ROUNDS):
        before = _processor_seconds_by_part(server.process.pid)
        outcome = callers_in_processes(server.port, image, callers, seconds, fields)
        after = _processor_seconds_by_part(server.process.pid)
        answered = outcome.statuses[200]
        if set(outcome.statuses) != {200}:
            raise ServerFailedError(f"answers had the statuses {dict(outcome.statuses)}")
        rates.append(outcome.goodput)
        spent.append({part: 1000 * (after[part] - before[part]) / answered for part in after})
    report: dict[str, Any] = {f"{kind}_per_s": round(statistics.median(rates), 1)}
    for part in spent[0]:
        median_ms = statistics.median(one[part] for one in spent)
        report[f"{kind}_ms_{part}"] = round(median_ms, 3)
    return report


def _processor_seconds_by_part(server: int) -> Counter[str]:
    """Return the processor time of the server's processes so far, by kind of process."""
    found: Counter[str] = Counter()
    for process in process_tree(server):
        try:
            found[_part_of(process, server)] += processor_seconds(process)  # type: ignore[assignment]
        except OSError:  # it has ended
            continue
    return found


def _part_of(process: int, server: int) -> str:
    if process == server:
        return "serving_process"
    line = Path(f"/proc/{process}/cmdline").read_bytes().decode(errors="replace")
    for word, part in (("compute_process", "compute"), ("front_process", "fronts")):
        if word in line:
            return part
    return "image_workers"


if __name__ == "__main__":
    sys.exit(main())
