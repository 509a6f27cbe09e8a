"""X-rays a second of training over 1, 2 and 4 processes, each with its own GPU if there is one.

Each process makes the real step of a stage (forward, loss, backward, averaging over processes,
optimizer) on its own share of a batch that grows with their number. Batches are phantoms made
before the measurement, so the figure is that of networks and averaging; `--loaded` includes the
loader's processes. Weights are random, because time does not depend on them.

    python -m benchmarks.experiments.training_gpus --counts 1 2 4 --device cuda --batch 8
    python -m benchmarks.experiments.training_gpus --counts 1 2 --device cpu --model vit_t

Each row ends with the efficiency against as many single processes. If weights differ between
processes after the last step, the command fails.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.experiments import training_runs
from benchmarks.processor import processor_name
from model_store.architecture import SamConfig, build_sam, sam_config
from training.acceleration.distributed import Processes, processes_from_environment
from training.config import RunConfig, load_config
from training.data.batches import BatchSource, TrainingBatch
from training.data.prefetching import prefetched
from training.phantom.dataset import write_phantom_dataset
from training.run.assembly import batch_source
from training.run.loop import TrainingLoop
from training.run.run import Run
from training.run.selection import load_training_xrays
from training.stages.baseline_stages import build_stage1

WARM_STEPS = 5
READY_BATCHES = 4
DRAWN_XRAYS = 32


def main() -> None:
    """Print a table; or, in a process of torchrun's, measure one row of it."""
    flags = _flags()
    if "WORLD_SIZE" in os.environ:
        _measure(flags)
        return
    name = torch.cuda.get_device_name() if flags.device == "cuda" else processor_name()
    print(f"{name}; {flags.model}, {flags.batch} X-rays a process, {flags.steps} steps")
    alone = 0.0
    with tempfile.TemporaryDirectory() as folder:
        xrays = max(DRAWN_XRAYS, flags.batch * max(flags.counts))
        write_phantom_dataset(Path(folder), {"train": xrays, "val": 1}, flags.side)
        for count in flags.counts:
            row = _row(flags, count, Path(folder))
            alone = alone or row["xrays_per_s"] / count
            row["efficiency"] = row["xrays_per_s"] / (count * alone)
            print(json.dumps(row), flush=True)


def _row(flags: argparse.Namespace, count: int, folder: Path) -> dict[str, float]:
    given = ["--device", flags.device, "--model", flags.model, "--batch", str(flags.batch)]
    given += ["--steps", str(flags.steps), "--data", str(folder), "--side", str(flags.side)]
    given += ["--precision", flags.precision, *(["--loaded"] if flags.loaded else [])]
    launch = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    command = [sys.executable, "-m", *launch, "-m", "benchmarks.experiments.training_gpus", *given]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    row: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return row


def _measure(flags: argparse.Namespace) -> None:
    processes = processes_from_environment(os.environ)
    device = processes.device(torch.device(flags.device))
    with processes.joined(device), tempfile.TemporaryDirectory() as folder:
        loop, source = _loop(flags, processes, device, Path(folder))
        seconds = _seconds(flags, loop, source, device)
        processes.require_equal("weights", loop.weights_sha256())
        row = {
            "processes": processes.count,
            "xrays_per_s": flags.batch * processes.count * flags.steps / seconds,
            "step_ms": 1e3 * seconds / flags.steps,
        }
        if processes.is_writer:
            print(json.dumps(row))


def _loop(
    flags: argparse.Namespace, processes: Processes, device: torch.device, folder: Path
) -> tuple[TrainingLoop, BatchSource]:
    torch.manual_seed(1)
    config, architecture = _recipe(flags, processes.count)
    stage = build_stage1(build_sam(architecture), config)
    xrays = load_training_xrays(config.data)
    source = batch_source(config, architecture, xrays).divided(processes)
    stage.to(device)
    run = Run(config, architecture, stage, source, xrays[:1], folder, device, processes=processes)
    loop = TrainingLoop(run)
    stage.model.train()
    return loop, source


def _recipe(flags: argparse.Namespace, count: int) -> tuple[RunConfig, SamConfig]:
    changes = {
        "data.root": str(flags.data), "data.phantoms": 0, "data.repeats": {},
        "batch_size": flags.batch * count, "precision": flags.precision, "steps": 10**6,
    }  # fmt: skip
    if flags.model == "vit_t":
        config = training_runs.recipe("stage1", changes)
        return config, training_runs.recipe("pretrain", {}).model
    config = load_config(training_runs.RECIPES / "sam_vit_b_stage1.toml", changes)
    architecture = sam_config(flags.model)
    return config, replace(architecture, input_size=flags.side)


def _seconds(
    flags: argparse.Namespace, loop: TrainingLoop, source: BatchSource, device: torch.device
) -> float:
    began = 0.0
    for number, batch in enumerate(_batches(flags, source)):
        if number == WARM_STEPS:
            _finish(device)
            began = time.perf_counter()
        loop.train_step(batch)
    _finish(device)
    return time.perf_counter() - began


def _batches(flags: argparse.Namespace, source: BatchSource) -> Iterator[TrainingBatch]:
    total = WARM_STEPS + flags.steps
    if flags.loaded:
        yield from prefetched(source.batch, range(total), max(1, (os.cpu_count() or 1) // 4))
        return
    ready = [source.batch(step) for step in range(READY_BATCHES)]
    for step in range(total):
        yield ready[step % READY_BATCHES]


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--model", choices=("vit_t", "vit_b", "vit_l"), default="vit_t")
    parser.add_argument("--side", type=int, default=256, help="of the X-rays, for vit_b the input")
    parser.add_argument("--batch", type=int, default=4, help="X-rays of each process")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--loaded", action="store_true", help="batches as the loader gives them")
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
