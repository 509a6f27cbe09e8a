"""Processor time of serving process and fronts: `python -m benchmarks.service.front_costs`.

Starts the real server and sends one X-ray after another, unchanged and with extra bytes that no
decoder reads (a private chunk of the PNG). The kernel counts the processor time of all threads of
serving process and fronts, and of no other process. Printed are the time of a request, and what
each megabyte of upload and of answer adds. The share of the serving process is printed separately,
because more fronts do not reduce it. The exit code is 1 if a megabyte of upload takes the serving
process more than the goal. Further flags go to the server, such as `--fronts 4`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processor import processor_name
from benchmarks.service.process_memory import process_tree
from benchmarks.service.segment_latency import DEFAULT_IMAGE, png_of_size
from benchmarks.service.server_process import RunningServer, ServerFailedError, running_server
from model_store.pictures.png_chunks import PNG_SIGNATURE, png_chunk

GOAL_MS_PER_MB = 1.0
EXTRA_MB = 8
IMAGE_SIDE_PX = 1024
_HEADER_CHUNK_BYTES = 25
_MASK = {"overlay": "false"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print.

    Args:
        arguments: command-line arguments; those of the process when None.

    Returns:
        0, or 1 when a megabyte of upload takes more than the goal.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.service.front_costs")
    parser.add_argument("--count", type=int, default=40, help="requests of each kind")
    parser.add_argument("--model", type=Path, help="model folder (default: the stored model)")
    options, flags = parser.parse_known_args(arguments)
    try:
        with running_server(options.model, flags) as server:
            report = measured(server, options.count)
    except ServerFailedError as error:
        print(f"front_costs: {error}", file=sys.stderr)
        return 1
    print(f"{processor_name()}, {len(os.sched_getaffinity(0))} cores")
    for name, value in report.items():
        print(f"{name:<36}{value:>8.2f}")
    print(f"goal: at most {GOAL_MS_PER_MB:g} ms for a megabyte of upload in the serving process")
    print(json.dumps(report))
    return 0 if report["serving_process_ms_per_upload_mb"] <= GOAL_MS_PER_MB else 1


def measured(server: RunningServer, count: int) -> dict[str, float]:
    """Return processor milliseconds of all front processes, and of the serving process alone.

    Args:
        server: a ready server.
        count: requests of each kind; a few more warm the server up.
    """
    bare = png_of_size(DEFAULT_IMAGE, IMAGE_SIDE_PX)
    heavy = with_private_bytes(bare, EXTRA_MB * 1_000_000)
    small, large, overlay = (
        _spent(server, image, fields, count)
        for image, fields in ((bare, _MASK), (heavy, _MASK), (bare, {}))
    )
    answer_mb = (overlay.answer_bytes - small.answer_bytes) / 1e6
    report = {"upload_mb": round(len(bare) / 1e6, 3)}
    for prefix, name in (("", "all_ms"), ("serving_process_", "serving_ms")):
        one, upload, answer = (getattr(each, name) for each in (small, large, overlay))
        report[f"{prefix}ms_per_request"] = round(one, 3)
        report[f"{prefix}ms_per_upload_mb"] = round((upload - one) / EXTRA_MB, 3)
        report[f"{prefix}ms_per_answer_mb"] = round((answer - one) / answer_mb, 3)
    return report


def with_private_bytes(png: bytes, size_bytes: int) -> bytes:
    """Return the PNG with a chunk after its header that every decoder skips."""
    start = len(PNG_SIGNATURE) + _HEADER_CHUNK_BYTES
    return png[:start] + png_chunk(b"teSt", os.urandom(size_bytes)) + png[start:]


def processor_seconds(process: int) -> float:
    """Return the processor time of a process's live threads, exact to a nanosecond."""
    times = [
        int((thread / "schedstat").read_text(encoding="ascii").split()[0])
        for thread in Path(f"/proc/{process}/task").iterdir()
    ]
    return sum(times) / 1e9


@dataclass(frozen=True)
class _Spent:
    """The cost of a request.

    Attributes:
        all_ms: processor time of serving process and fronts, milliseconds.
        serving_ms: the serving process's part of `all_ms`.
        answer_bytes: length of its answer.
    """

    all_ms: float
    serving_ms: float
    answer_bytes: int


def _spent(server: RunningServer, image: bytes, fields: Mapping[str, str], count: int) -> _Spent:
    """Return the mean cost of a request."""
    serving = server.process.pid
    fronts = [one for one in process_tree(serving) if _is_front(one)]
    answers = [server.segment(image, fields) for _ in range(3)]
    began = [processor_seconds(process) for process in (serving, *fronts)]
    answers = [server.segment(image, fields) for _ in range(count)]
    ended = [processor_seconds(process) for process in (serving, *fronts)]
    if any(answer.status != 200 for answer in answers):
        raise ServerFailedError(f"an X-ray got {answers[0].status}")
    spent_ms = [1000 * (now - then) / count for now, then in zip(ended, began, strict=True)]
    return _Spent(sum(spent_ms), spent_ms[0], len(answers[0].body))


def _is_front(process: int) -> bool:
    line = Path(f"/proc/{process}/cmdline").read_bytes()
    return b"service.fronts.front_process" in line


if __name__ == "__main__":
    sys.exit(main())
