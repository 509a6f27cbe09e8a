"""Sizes, seconds and memory of a full-size model: export, load, first mask, serving.

    python -m benchmarks.engines.full_size --sizes 512 1024

`vit_b` has random weights here; ``docs/training.md`` has the same steps with Meta's file. The
project's own export writes the INT8 artifact and its float twin. Each is loaded in a fresh process
(`benchmarks.engines.first_mask`), and the real server serves the INT8 model.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.engines.random_model import write_random_models
from benchmarks.processor import processor_name
from benchmarks.service.segment_latency import DEFAULT_IMAGE, png_of_size
from benchmarks.service.server_process import ServerFailedError, running_server
from model_store.architecture import sam_config
from model_store.artifact import read_manifest

LARGEST_RATIO = 0.29
"""Goal for the ratio of bytes of INT8 weights to those in float32."""

IMAGE_SIDE = 1024


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the figures of each size, and one JSON line last; 1 when something failed."""
    options = _parser().parse_args(arguments)
    report: dict[str, Any] = {"machine": processor_name(), "sizes": {}}
    print(report["machine"])
    failed = False
    with tempfile.TemporaryDirectory() as temporary:
        models = (options.workspace or Path(temporary)) / "models"
        for size in options.sizes:
            try:
                found = measure_size(models, size, options.variant, options.requests)
            except (ServerFailedError, subprocess.CalledProcessError) as error:
                print(f"{options.variant}@{size}: {error}", file=sys.stderr)
                failed = True
                continue
            report["sizes"][f"{options.variant}@{size}"] = found
            failed |= found["ratio_to_float32"] > LARGEST_RATIO or found["served"]["failed"] > 0
    print(json.dumps(report))
    return 1 if failed else 0


def measure_size(models: Path, size: int, variant: str, requests: int) -> dict[str, Any]:
    """Measure and print every step of one size."""
    started = time.perf_counter()
    integers, floats = write_random_models(sam_config(variant, input_size=size), models)
    print(f"\n{variant} at {size} px, written in {time.perf_counter() - started:.0f} s")
    found = sizes_on_disk(integers, floats)
    mib = {name: value / 2**20 for name, value in found.items() if name.endswith("bytes")}
    print(
        f"  INT8 {mib['int8_bytes']:.1f} MiB, float32 {mib['float32_bytes']:.1f} MiB: "
        f"{found['ratio_to_float32']:.3f} (at most {LARGEST_RATIO}); twin as stored, float16, "
        f"{mib['stored_twin_bytes']:.1f} MiB"
    )
    for precision, folder in (("int8", integers), ("fp32", floats)):
        found[precision] = first_mask(folder)
        print_loading(precision, found[precision])
    found["served"] = serve(integers, requests)
    served = found["served"]
    print(
        f"  served: ready after {served['ready_s']:.1f} s, one PNG of {IMAGE_SIDE} px "
        f"{served['median_s']:.2f} s (median of {requests}), {served['failed']} failed"
    )
    return found


def sizes_on_disk(integers: Path, floats: Path) -> dict[str, Any]:
    """Return bytes of the weights, and the ratio to the same weights in float32."""
    weights = read_manifest(integers).weights
    return {
        "int8_bytes": weights.size_bytes,
        "float32_bytes": weights.float_size_bytes,
        "stored_twin_bytes": read_manifest(floats).weights.size_bytes,
        "ratio_to_float32": weights.size_bytes / weights.float_size_bytes,
    }


def first_mask(folder: Path) -> dict[str, Any]:
    """Load a model and predict a mask in a fresh process.

    Raises:
        subprocess.CalledProcessError: It failed.
    """
    command = [sys.executable, "-m", "benchmarks.engines.first_mask", str(folder)]
    started = time.perf_counter()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {**found, "process_s": time.perf_counter() - started}


def print_loading(precision: str, found: dict[str, Any]) -> None:
    """Print seconds and memory of one load."""
    memory = found["memory_mib"]
    print(
        f"  {precision}, engine {found['engine']}: imports {found['import_s']:.1f} s, load "
        f"{found['load_s']:.2f} s, first mask {found['first_mask_s']:.2f} s"
    )
    for moment, sizes in memory.items():
        line = ", ".join(f"{name} {value:.0f}" for name, value in sizes.items())
        print(f"    {moment:<9} MiB: {line}")
    grown = memory["loaded"]["anonymous"] - memory["imported"]["anonymous"]
    print(f"    loading copied {grown:.0f} MiB")


def serve(folder: Path, requests: int) -> dict[str, Any]:
    """Serve a model with the real server and send it a PNG several times.

    Raises:
        ServerFailedError: The server did not become ready.
    """
    image = png_of_size(DEFAULT_IMAGE, IMAGE_SIDE)
    started = time.perf_counter()
    with running_server(folder) as server:
        ready_s = time.perf_counter() - started
        answers = [server.segment(image, {}) for _ in range(requests)]
    return {
        "ready_s": ready_s,
        "median_s": statistics.median(answer.seconds for answer in answers),
        "seconds": [answer.seconds for answer in answers],
        "failed": sum(answer.status != 200 for answer in answers),
        "statuses": [answer.status for answer in answers],
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.engines.full_size", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--sizes", nargs="+", type=int, default=[512, 1024], help="pixels")
    parser.add_argument("--variant", default="vit_b", choices=("vit_b", "vit_l", "vit_h", "vit_t"))
    parser.add_argument("--requests", type=int, default=3)
    parser.add_argument("--workspace", type=Path, help="keeps the models for another run")
    return parser


if __name__ == "__main__":
    sys.exit(main())
