"""The time that Ray Serve adds to a request: alternate requests to one process and one replica.

    python -m benchmarks.service.serve_overhead [--requests 60] [--haproxy]

Starts `python -m service` and `serve run` with the same settings on two ports. It prints both
medians, their difference (goal: at most 10 ms) and whether all masks are equal. `--haproxy` starts
Serve with `RAY_SERVE_ENABLE_HA_PROXY=1`. Then HAProxy, which the extra installs, forwards requests
to the replicas' ports instead of Ray's proxy in Python.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import http.client
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from pathlib import Path

from benchmarks.processor import processor_name
from benchmarks.service.segment_latency import DEFAULT_IMAGE, png_of_size
from benchmarks.service.server_process import multipart, running_server

IMAGE_SIDE_PX = 1024
START_TIMEOUT_S = 180.0
GOAL_MS = 10.0
SETTINGS = {"threads": "1", "image_workers": "2"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return 0, or 1 where a mask differs or the goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--requests", type=int, default=60)
    parser.add_argument("--haproxy", action="store_true", help="in place of Ray's own proxy")
    flags = parser.parse_args(arguments)
    image = png_of_size(DEFAULT_IMAGE, IMAGE_SIDE_PX)
    given = [word for name, value in SETTINGS.items() for word in (f"--{name}", value)]
    seconds: dict[int, list[float]] = {}
    masks: set[bytes] = set()
    with running_server(None, given) as plain, _replica(has_haproxy=flags.haproxy) as port:
        ports = (plain.port, port)
        for number in range(flags.requests + 5):
            for one in ports:
                spent, mask = _segment(one, image)
                masks.add(mask)
                if number >= 5:
                    seconds.setdefault(one, []).append(spent)
    medians = [1000 * statistics.median(seconds[one]) for one in ports]
    report = {
        "processor": processor_name(),
        "proxy": "HAProxy" if flags.haproxy else "Ray",
        "process_median_ms": round(medians[0], 1),
        "replica_median_ms": round(medians[1], 1),
        "added_ms": round(medians[1] - medians[0], 1),
        "equal_masks": len(masks) == 1,
    }
    print(json.dumps(report))
    return 0 if len(masks) == 1 and medians[1] - medians[0] <= GOAL_MS else 1


@contextlib.contextmanager
def _replica(*, has_haproxy: bool) -> Generator[int, None, None]:
    """Run `serve run` on a free port of this machine, until the block ends."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    config = {
        "http_options": {"host": "127.0.0.1", "port": port},
        "applications": [
            {
                "name": "lungseg",
                "route_prefix": "/",
                "import_path": "service.ray_app:app",
                "args": SETTINGS,
            }
        ],
    }
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    environment["RAY_SERVE_ENABLE_HA_PROXY"] = "1" if has_haproxy else "0"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "serve.yaml"
        path.write_text(json.dumps(config))  # JSON is YAML
        command = [str(Path(sys.executable).with_name("serve")), "run", str(path)]
        with (Path(folder) / "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
            try:
                _wait_until_ready(port, process)
                yield port
            finally:
                process.send_signal(signal.SIGINT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(60)
                process.kill()
                process.wait()


def _wait_until_ready(port: int, process: subprocess.Popen[bytes]) -> None:
    stop_by = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < stop_by and process.poll() is None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            with contextlib.closing(connection):
                connection.request("GET", "/readyz")
                if connection.getresponse().status == 200:
                    return
        time.sleep(0.2)
    raise SystemExit("serve run did not become ready")


def _segment(port: int, image: bytes) -> tuple[float, bytes]:
    body, content_type = multipart(image, {})
    began = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    with contextlib.closing(connection):
        connection.request("POST", "/segment", body, {"Content-Type": content_type})
        answer = connection.getresponse()
        data = answer.read()
    spent = time.perf_counter() - began
    if answer.status != 200:
        raise SystemExit(f"port {port} answered {answer.status}")
    return spent, base64.b64decode(json.loads(data)["masks"][0]["png"])


if __name__ == "__main__":
    sys.exit(main())
