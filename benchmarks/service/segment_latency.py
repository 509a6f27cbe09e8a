"""The time of `POST /segment` for one caller: a 1024 x 1024 PNG, JSON with the overlay.

`python -m benchmarks.service.segment_latency [--image X.png] [--count 50] [--limit_ms 400]` starts
the real server on a free loopback port and sends one request after the other. It prints the median,
the 95th percentile and the median of each stage; the last line is the same as JSON. The exit code
is 1 if the median is above `--limit_ms`.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.processor import processor_name
from benchmarks.service.server_process import (
    Answer,
    RunningServer,
    ServerFailedError,
    running_server,
)

DEFAULT_IMAGE = Path(__file__).parents[2] / "examples" / "phantom.png"
WARM_UP_REQUESTS = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print.

    Args:
        arguments: command-line arguments; those of the process when None.

    Returns:
        0, or 1 when the median is above the limit or an answer is not 200.
    """
    options = _parser().parse_args(arguments)
    image = png_of_size(options.image, options.size)
    flags = ["--threads", str(options.threads)] if options.threads else []
    try:
        with running_server(options.model, flags) as server:
            report = measure(server, image, options.count)
    except ServerFailedError as error:
        print(f"segment_latency: {error}", file=sys.stderr)
        return 1
    report |= {"image_px": [options.size, options.size], "image_bytes": len(image)}
    _print(report)
    too_slow = options.limit_ms is not None and report["median_ms"] > options.limit_ms
    if too_slow:
        print(f"the median is above the limit of {options.limit_ms:g} ms", file=sys.stderr)
    print(json.dumps(report))
    return 1 if too_slow or report["failed"] else 0


def png_of_size(path: Path, size_px: int) -> bytes:
    """Return an image as an 8-bit grey PNG, resized to a square of `size_px` pixels."""
    with Image.open(path) as opened:
        resized = opened.convert("L").resize((size_px, size_px), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    resized.save(buffer, "PNG")
    return buffer.getvalue()


def measure(server: RunningServer, image: bytes, count: int) -> dict[str, Any]:
    """Send `count` requests one after the other.

    Args:
        server: a ready server.
        image: bytes of the PNG.
        count: measured requests; a few more warm the server up.

    Returns:
        Figures in milliseconds; `failed` counts answers other than 200.
    """
    answers = [server.segment(image, {}) for _ in range(WARM_UP_REQUESTS + count)]
    measured = answers[WARM_UP_REQUESTS:]
    good = [answer for answer in measured if answer.status == 200]
    times_ms = sorted(answer.seconds * 1000 for answer in good)
    if not times_ms:
        raise ServerFailedError(f"every answer failed, the first with {measured[0].status}")
    model = server.readiness["model"]
    return {
        "median_ms": round(statistics.median(times_ms), 1),
        "p95_ms": round(times_ms[min(len(times_ms) - 1, int(0.95 * len(times_ms)))], 1),
        "stages_median_ms": _stage_medians(good),
        "requests": len(measured),
        "failed": len(measured) - len(good),
        "model": f"{model['name']}/{model['version']}",
        "precision": model["precision"],
        "device": model["device"],
        "processor": processor_name(),
        "cores": len(os.sched_getaffinity(0)),
    }


def _stage_medians(answers: Sequence[Answer]) -> dict[str, float]:
    latencies = [json.loads(answer.body)["latency_ms"] for answer in answers]
    return {
        stage: round(statistics.median(one[stage] for one in latencies), 2)
        for stage in latencies[0]
    }


def _print(report: dict[str, Any]) -> None:
    print(f"{report['processor']}, {report['cores']} cores; model {report['model']}", end=" ")
    print(f"({report['precision']}) on {report['device']}; {report['requests']} requests")
    print(f"median {report['median_ms']} ms, p95 {report['p95_ms']} ms")
    for stage, median_ms in report["stages_median_ms"].items():
        print(f"  {stage:<13}{median_ms:>8.2f} ms")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.service.segment_latency")
    parser.add_argument("--image", type=Path, default=DEFAULT_IMAGE, help="X-ray to send")
    parser.add_argument("--size", type=int, default=1024, help="side of the image sent, pixels")
    parser.add_argument("--count", type=int, default=50, help="measured requests")
    parser.add_argument("--model", type=Path, help="model folder (default: the stored model)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads, 0 for the default")
    parser.add_argument("--limit_ms", type=float, help="exit code 1 if the median is above it")
    return parser


if __name__ == "__main__":
    sys.exit(main())
