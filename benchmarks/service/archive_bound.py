"""The rate of the archive command against the machine's upper bound, in one run.

    python -m benchmarks.service.archive_bound [--xrays 400] [--units 2 | --ray --actors 2]
    python -m benchmarks.service.archive_bound --device cuda --xrays 3000 --units 4 6 8

`bounds` measures two rates with one X-ray: opening and rendering without an overlay, and the
network. Each may use all processors. On a CPU they share the processors, so the bound is one over
the sum of their times; with `--device cuda` it is the smaller rate. Then the archive command
segments copies of the same X-ray, once for each number of units. Each prints a line of JSON; the
exit code is 1 if the best is below 95 % of the bound.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.processor import processor_name
from benchmarks.service.bounds import network_rates, pipeline_rates
from benchmarks.service.load import IMAGE_SIDE_PX
from benchmarks.service.segment_latency import DEFAULT_IMAGE, png_of_size
from model_store.artifact import read_manifest
from model_store.model_index import default_model_folder

LEAST_SHARE = 0.95
_NO_OVERLAY = "false"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure both and print them.

    Args:
        arguments: command-line arguments; those of the process when None.

    Returns:
        Exit code of the process.
    """
    processors = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--xrays", type=int, default=400)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each part of the bound")
    parser.add_argument("--units", type=int, nargs="+", default=[processors])
    parser.add_argument(
        "--workers", type=int, help="image workers of each unit; default: its share of processors"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--max-batch", type=int, default=4)
    parser.add_argument("--image", type=Path, default=DEFAULT_IMAGE, help="X-ray to segment")
    parser.add_argument("--ray", action="store_true", help="through the command, on Ray")
    parser.add_argument("--actors", type=int, nargs="+", default=[processors], help="with --ray")
    flags = parser.parse_args(arguments)
    image = png_of_size(flags.image, IMAGE_SIDE_PX)
    shares = []
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "in").mkdir()
        path = Path(name) / "in" / "image.png"
        path.write_bytes(image)
        logits = Path(name) / "logits.npy"
        network = max(network_rates(None, path, [flags.device], flags.seconds, logits).values())
        size = int(read_manifest(default_model_folder()).architecture["input_size"])
        (pipeline,) = pipeline_rates(path, size, processors, flags.seconds, [_NO_OVERLAY], logits)
        bound = bound_per_s(network, pipeline, shares_processors=flags.device == "cpu")
        machine = {
            "processor": processor_name(),
            "processors": processors,
            "network_per_s": network,
            "pipeline_per_s": pipeline,
            "bound_per_s": round(bound, 2),
        }
        for count in flags.actors if flags.ray else flags.units:
            workers = flags.workers or max(2, processors // count)
            reached = _archive_rate(path.parent, flags, count, workers)
            shares.append(reached / bound)
            report = {
                "units": count,
                "image_workers": workers,
                "archive_per_s": round(reached, 2),
                "share_of_bound": round(shares[-1], 3),
            }
            print(json.dumps(machine | report), flush=True)
    return 0 if max(shares) >= LEAST_SHARE else 1


def bound_per_s(network: float, pipeline: float, *, shares_processors: bool) -> float:
    """Return X-rays a second that nothing can exceed.

    Args:
        network: rate of the network alone, X-rays a second.
        pipeline: rate of opening and rendering alone.
        shares_processors: whether both run on the CPU.
    """
    return 1 / (1 / network + 1 / pipeline) if shares_processors else min(network, pipeline)


def _archive_rate(data: Path, flags: argparse.Namespace, count: int, workers: int) -> float:
    command = [sys.executable, "-m", "benchmarks.service.archive_rate", "--data", str(data)]
    command += ["--xrays", str(flags.xrays), "--device", flags.device]
    command += ["--workers", str(workers), "--max-batch", str(flags.max_batch)]
    if flags.ray:
        command += ["--ray", "--actors", str(count)]
    else:
        command += ["--units", str(count)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return float(json.loads(done.stdout.splitlines()[-1])["xrays_per_s"])


if __name__ == "__main__":
    sys.exit(main())
