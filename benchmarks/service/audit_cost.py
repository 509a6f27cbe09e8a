"""The time that the audit log adds to a request: two services, one of them with a log.

Requests alternate between them, so other load on the machine affects both alike. Printed are both
medians and the median difference of consecutive requests, also as a share of a request.

    python -m benchmarks.service.audit_cost [--requests 200] [--size 2048]
"""

from __future__ import annotations

import argparse
import json
import secrets
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.processor import processor_name
from benchmarks.service.segment_latency import DEFAULT_IMAGE, png_of_size
from benchmarks.service.server_process import RunningServer, running_server

WARM_UP = 5


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print.

    Args:
        arguments: command-line arguments; those of the process when None.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=200, help="requests to each service")
    parser.add_argument("--size", type=int, default=2048, help="side of the X-ray in pixels")
    flags = parser.parse_args(arguments)
    image = png_of_size(DEFAULT_IMAGE, flags.size)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        key = folder / "key"
        key.write_text(secrets.token_hex(32))
        audited = ["--audit-log", str(folder / "audit.jsonl"), "--audit-key-file", str(key)]
        with running_server(None) as plain, running_server(None, audited) as written:
            found = _measure(plain, written, image, flags.requests)
        lines = (folder / "audit.jsonl").read_bytes().count(b"\n")
    if lines < flags.requests:
        raise RuntimeError(f"the audit log has {lines} lines for {flags.requests} requests")
    print(processor_name())
    print(
        f"X-ray of {flags.size} x {flags.size}, {len(image)} bytes: median {found['plain_ms']} ms "
        f"without, {found['audited_ms']} ms with an audit log; difference of neighbours "
        f"{found['difference_ms']} ms, {100 * found['share']:.2f} % of a request"
    )
    print(json.dumps(found))
    return 0


def _measure(
    plain: RunningServer, written: RunningServer, image: bytes, count: int
) -> dict[str, float]:
    """Send alternating requests; return milliseconds and the share that the log adds."""
    for server in (plain, written):
        for _ in range(WARM_UP):
            _seconds(server, image)
    pairs = []
    for number in range(count):
        if number % 2:
            pairs.append((_seconds(plain, image), _seconds(written, image)))
        else:
            second = _seconds(written, image)
            pairs.append((_seconds(plain, image), second))
    plain_s = statistics.median(one for one, _ in pairs)
    difference_s = statistics.median(other - one for one, other in pairs)
    return {
        "plain_ms": round(1000 * plain_s, 2),
        "audited_ms": round(1000 * statistics.median(other for _, other in pairs), 2),
        "difference_ms": round(1000 * difference_s, 2),
        "share": round(difference_s / plain_s, 4),
    }


def _seconds(server: RunningServer, image: bytes) -> float:
    answer = server.segment(image, {"overlay": "false"})
    if answer.status != 200:
        raise RuntimeError(f"the service answered {answer.status}")
    return answer.seconds


if __name__ == "__main__":
    sys.exit(main())
