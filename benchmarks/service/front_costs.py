"""What the serving process itself takes: `python -m benchmarks.service.front_costs [--count 40]`.

Starts the real server and sends one X-ray after another, bare and with bytes beside it that no
decoder looks at (a private chunk of the PNG). The kernel's count of the serving process's
processor time, all its threads and no other process, then says what a request takes and what each
megabyte of upload and of answer adds. Exit code 1 when a megabyte of upload takes more than the
goal.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.processor import processor_name
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
    options = parser.parse_args(arguments)
    try:
        with running_server(options.model) as server:
            report = measured(server, options.count)
    except ServerFailedError as error:
        print(f"front_costs: {error}", file=sys.stderr)
        return 1
    print(f"{processor_name()}, {len(os.sched_getaffinity(0))} cores")
    for name, value in report.items():
        print(f"{name:<28}{value:>8.2f}")
    print(f"goal: at most {GOAL_MS_PER_MB:g} ms for a megabyte of upload")
    print(json.dumps(report))
    return 0 if report["ms_per_upload_mb"] <= GOAL_MS_PER_MB else 1


def measured(server: RunningServer, count: int) -> dict[str, float]:
    """Return milliseconds of the serving process's processor time.

    Args:
        server: a ready server.
        count: requests of each kind; a few more warm it up.
    """
    bare = png_of_size(DEFAULT_IMAGE, IMAGE_SIDE_PX)
    heavy = with_private_bytes(bare, EXTRA_MB * 1_000_000)
    small_ms, small_bytes = _front_ms(server, bare, _MASK, count)
    large_ms, _ = _front_ms(server, heavy, _MASK, count)
    overlay_ms, overlay_bytes = _front_ms(server, bare, {}, count)
    return {
        "upload_mb": round(len(bare) / 1e6, 3),
        "ms_per_request": round(small_ms, 3),
        "ms_per_upload_mb": round((large_ms - small_ms) / EXTRA_MB, 3),
        "ms_per_answer_mb": round(
            (overlay_ms - small_ms) / ((overlay_bytes - small_bytes) / 1e6), 3
        ),
    }


def with_private_bytes(png: bytes, size_bytes: int) -> bytes:
    """Return the same picture with a chunk that every decoder skips, behind its header."""
    start = len(PNG_SIGNATURE) + _HEADER_CHUNK_BYTES
    return png[:start] + png_chunk(b"teSt", os.urandom(size_bytes)) + png[start:]


def processor_seconds(process: int) -> float:
    """Return the processor time of a process's threads that run, in the kernel's nanoseconds."""
    times = [
        int((thread / "schedstat").read_text(encoding="ascii").split()[0])
        for thread in Path(f"/proc/{process}/task").iterdir()
    ]
    return sum(times) / 1e9


def _front_ms(
    server: RunningServer, image: bytes, fields: Mapping[str, str], count: int
) -> tuple[float, int]:
    """Return milliseconds a request, and the bytes of an answer."""
    answers = [server.segment(image, fields) for _ in range(3)]
    began_s = processor_seconds(server.process.pid)
    answers = [server.segment(image, fields) for _ in range(count)]
    spent_s = processor_seconds(server.process.pid) - began_s
    if any(answer.status != 200 for answer in answers):
        raise ServerFailedError(f"an X-ray got {answers[0].status}")
    return 1000 * spent_s / count, len(answers[0].body)


if __name__ == "__main__":
    sys.exit(main())
