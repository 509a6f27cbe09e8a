"""The cost of several models in one service, and whether the right model answers each request.

`python -m benchmarks.service.several_models --further FOLDER [--shadow FOLDER] [--data FOLDER]
[--count 40] [--callers 8]` measures services one after another: the default model alone, with a
further model, and (with `--shadow`) with a shadow model. For each it measures memory at rest, then
requests of callers without pauses. With two models, each X-ray is sent to both, first alone and
then concurrently, and every mask of the second pass is compared with the first. The exit code is 1
if one byte differs, a request fails, or an answer names another model.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.processor import processor_name
from benchmarks.service.process_memory import tree_pss_bytes
from benchmarks.service.same_masks_under_load import images_of
from benchmarks.service.server_process import RunningServer, running_server

MIB = 1 << 20
SHADOW_TIMEOUT_S = 170.0


@dataclass(frozen=True)
class ModelRequest:
    """One request of the measurement.

    Attributes:
        image: index of the X-ray.
    """

    image: int
    model: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print.

    Args:
        arguments: command-line arguments; those of the process when None.

    Returns:
        0 if every answer came from the requested model and was the same as alone.
    """
    options = _parser().parse_args(arguments)
    images = images_of(options.data, options.count)
    services: dict[str, list[str]] = {"one model": []}
    if options.further:
        services["two models"] = ["--further-models", str(options.further)]
    if options.shadow:
        services["one model and a shadow"] = [
            "--shadow-model", str(options.shadow), "--shadow-share", "1",
        ]  # fmt: skip
    print(f"{processor_name()}, {len(images)} X-rays, {options.callers} callers")
    figures = {}
    for name, flags in services.items():
        with running_server(options.model, ["--queue-limit", "1000", *flags]) as server:
            figures[name] = _measured(server, images, options.callers)
        print(f"{name}: {_sentence(figures[name])}")
    print(json.dumps(figures))
    return int(any(one["wrong"] for one in figures.values()))


def _measured(server: RunningServer, images: Sequence[bytes], callers: int) -> dict[str, Any]:
    names = [
        f"{one['model']['name']}/{one['model']['version']}" for one in server.readiness["models"]
    ]
    requests = [ModelRequest(number, name) for number in range(len(images)) for name in names]
    _segment(server, images, requests[0])
    _wait_for_shadow(server)
    at_rest_bytes = tree_pss_bytes(server.process.pid)
    alone = [_segment(server, images, request) for request in requests]
    began = time.perf_counter()
    with ThreadPoolExecutor(callers) as pool:
        together = list(pool.map(lambda request: _segment(server, images, request), requests))
    seconds = time.perf_counter() - began
    right = [one[:2] == other[:2] and one[0] for one, other in zip(alone, together, strict=True)]
    return {
        "models": names,
        "memory_mib": round(at_rest_bytes / MIB),
        "memory_under_load_mib": round(tree_pss_bytes(server.process.pid) / MIB),
        "alone_ms": round(1000 * statistics.median(one[2] for one in alone), 1),
        "together_ms": round(1000 * statistics.median(one[2] for one in together), 1),
        "requests_per_second": round(len(requests) / seconds, 2),
        "requests": len(requests),
        "wrong": right.count(False),
        "shadow_compared": _figure(server, 'lungseg_shadow_requests_total{outcome="compared"}'),
        "shadow_dropped": _figure(server, 'lungseg_shadow_requests_total{outcome="dropped"}'),
    }


def _wait_for_shadow(server: RunningServer) -> None:
    """Wait until the shadow model is loaded, which starts when processors are idle."""
    give_up_at = time.monotonic() + SHADOW_TIMEOUT_S
    while _figure(server, "lungseg_shadow_models_ready") < _figure(server, "lungseg_shadow_models"):
        if time.monotonic() > give_up_at:
            raise SystemExit("several_models: the shadow model did not become ready")
        time.sleep(0.5)


def _figure(server: RunningServer, name: str) -> float:
    url = f"http://127.0.0.1:{server.port}/metrics"
    with urllib.request.urlopen(url) as answer:
        lines = answer.read().decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))


def _segment(
    server: RunningServer, images: Sequence[bytes], request: ModelRequest
) -> tuple[bool, str, float]:
    """Return whether the requested model answered, its mask, and the seconds."""
    fields = {"overlay": "false", "model": request.model}
    answer = server.segment(images[request.image], fields)
    if answer.status != 200:
        return False, str(answer.status), answer.seconds
    found = json.loads(answer.body)
    said = f"{found['model']['name']}/{found['model']['version']}"
    return said == request.model, found["masks"][0]["png"], answer.seconds


def _sentence(figures: dict[str, Any]) -> str:
    return (
        f"{figures['memory_mib']} MiB at rest, {figures['memory_under_load_mib']} after the load; "
        f"{figures['alone_ms']} ms alone, {figures['together_ms']} ms together, "
        f"{figures['requests_per_second']} requests a second; "
        f"{figures['wrong']} of {figures['requests']} answers wrong; "
        f"{figures['shadow_compared']:.0f} compared by a shadow, "
        f"{figures['shadow_dropped']:.0f} dropped"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.service.several_models",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", type=Path, help="first model; default: the package's")
    parser.add_argument("--further", type=Path, help="model that is served beside")
    parser.add_argument("--shadow", type=Path, help="shadow model")
    parser.add_argument("--data", type=Path, help="folder of X-rays; drawn ones when left out")
    parser.add_argument("--count", type=int, default=40, help="X-rays")
    parser.add_argument("--callers", type=int, default=8, help="callers at a time")
    return parser


if __name__ == "__main__":
    sys.exit(main())
