"""The gains of adaptation and of training for INT8: seven methods from one base, on one data set.

The base is a compact SAM trained on phantoms alone. It is adapted to X-rays by its decoder alone,
in full, by LoRA of a fixed rank and by AdaLoRA, for the same number of steps. AdaLoRA's model is
then quantized by calibration alone (PTQ) and by quantization-aware training. Existing runs in
``--out`` are not trained again, so a CPU can measure runs that a GPU made.

    python -m benchmarks.experiments.does_it_pay --data DATA --out runs/pays
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.experiments.training_runs import (
    model_for,
    recipe,
    seconds_per_epoch,
    side_by_side,
    sizes_for,
    train_unless_done,
)
from benchmarks.processor import processor_name
from model_store.architecture import build_sam
from model_store.boxes import Box
from model_store.prediction import PredictionRequest
from model_store.predictor import Predictor, choose_device
from training.config import RunConfig
from training.data.dataset import DataRow, load_xray, read_rows
from training.evaluation.probability_maps import compare_maps
from training.evaluation.scores import ImageScore, score_rows
from training.export import write_deployed
from training.phantom.dataset import write_phantom_dataset
from training.stages.base import load_base
from training.stages.parameter_count import count_parameters

METHODS = ("decoder_only", "full", "lora", "adalora")
TIMED_IMAGES = 15

Runs = dict[str, tuple[RunConfig, str | None]]
"""Settings and base of each run, by name."""


@dataclass(frozen=True)
class Effort:
    """The sizes of the runs.

    Attributes:
        base_steps: Steps of the base on phantoms.
        steps: Steps of each adaptation.
        qat_steps: Steps of quantization-aware training.
        batch_size: X-rays per step.
        phantoms: Number of training phantoms of the base.
        workers: Processes that make batches.
        input_size: Side of the input, in pixels.
        compile: Whether the float runs are compiled, for a GPU.
    """

    base_steps: int = 500
    steps: int = 600
    qat_steps: int = 120
    batch_size: int = 32
    phantoms: int = 1500
    workers: int = 1
    input_size: int = 256
    compile: bool = False


@dataclass(frozen=True)
class Row:
    """The results of one method: means over the X-rays of one data set with their own boxes."""

    method: str
    source: str
    n: int
    dice: float
    iou: float
    nsd: float
    hd95: float
    assd: float
    unit: str
    ssim: float
    trainable: int
    size_bytes: int
    epoch_s: float | None
    cpu_ms: float | None = None


def runs_of(data: Path, phantoms: Path, effort: Effort) -> Runs:
    """Return every run and its base, in the order of training."""
    common: dict[str, Any] = {
        "data.root": str(data),
        "data.workers": effort.workers,
        **sizes_for(effort.input_size),
        "data.phantoms": 0,
        "batch_size": effort.batch_size,
        "compile": effort.compile,
    }
    base = {
        **model_for(effort.input_size),
        "data.root": str(phantoms),
        "data.phantoms": effort.phantoms,
        "data.repeats": {},
        "steps": effort.base_steps,
        "optimizer.learning_rate": 1e-3,
        "optimizer.matrix_learning_rate": 2e-3,
        "optimizer.ema_decay": 0.995,
    }
    adapters = {"adalora.targets": ["q", "k", "v"], "adalora.initial_rank": 12}
    adapt = {
        "precision": "bf16",
        "steps": effort.steps,
        "adalora.warmup_steps": effort.steps // 10,
        "adalora.final_steps": effort.steps * 2 // 5,
        "optimizer.ema_decay": 0.995,
    }
    rare = {"validate_every_steps": 10**6, "checkpoint_every_steps": 100}
    runs: Runs = {"base": (recipe("pretrain", {**common, **rare, **base}), None)}
    for method in METHODS:
        settings = {**common, **rare, **adapters, **adapt, "adaptation.method": method}
        runs[method] = (recipe("stage1", settings), "base")
    for name, steps in (("ptq", 0), ("qat", effort.qat_steps)):
        settings = {**common, **rare, **adapters, "compile": False, "steps": steps}
        runs[name] = (recipe("stage2", settings), "adalora")
    return runs


def main(arguments: Sequence[str] | None = None) -> int:
    """Train missing runs, measure all, print the table and one line of JSON."""
    options = _parser().parse_args(arguments)
    effort = Effort(
        options.base_steps, options.steps, options.qat_steps, options.batch_size,
        options.phantoms, options.workers, options.input_size, options.compile,
    )  # fmt: skip
    phantoms = options.out / "phantoms"
    if not (phantoms / "manifest.csv").exists():
        write_phantom_dataset(phantoms, {"train": 16, "val": 16, "test": 2})
    runs = runs_of(options.data, phantoms, effort)
    rows = read_rows(options.data, options.split)[:: options.every]
    _train(runs, options.out, options.device, options.processes)
    table = _measure(options.out, runs, rows, options.processes)
    print(f"{processor_name()}, {os.cpu_count()} cores; {options.split}, every box its own")
    _print(table)
    print(json.dumps({"effort": asdict(effort), "rows": [asdict(row) for row in table]}))
    return 0


def _train(runs: Runs, folder: Path, device: str, processes: int) -> None:
    """Train missing runs; those with finished bases run in parallel."""
    done: set[str | None] = {None}
    while waiting := [name for name in runs if name not in done]:
        ready = [name for name in waiting if runs[name][1] in done]
        job = functools.partial(_train_one, runs=runs, folder=folder, device=device)
        side_by_side(job, ready, processes)
        done.update(ready)


def _train_one(name: str, runs: Runs, folder: Path, device: str) -> None:
    config, base = runs[name]
    start = folder / base if base else None
    train_unless_done(config, start, folder / name, choose_device(device))


def _measure(folder: Path, runs: Runs, rows: Sequence[DataRow], processes: int) -> list[Row]:
    """Score all methods in parallel; then time each alone."""
    with tempfile.TemporaryDirectory() as work:
        sizes = {name: _store(folder / name, name, Path(work)) for name in runs}
        job = functools.partial(
            _rows_of, runs=runs, folder=folder, work=Path(work), rows=rows, sizes=sizes
        )
        found = [row for table in side_by_side(job, list(runs), processes) for row in table]
        times = {name: _milliseconds(_predictor(name, Path(work)), rows) for name in runs}
    return [dataclasses.replace(row, cpu_ms=times[row.method]) for row in found]


def _store(run: Path, name: str, work: Path) -> int:
    """Export a run's best weights as a stored model; return its size in bytes."""
    base = load_base(run)
    stored = _stored_name(name)
    return write_deployed(base.model, base.architecture, work, name=stored, version="1").size_bytes


def _predictor(name: str, work: Path) -> Predictor:
    return Predictor.load(work / _stored_name(name) / "1", "cpu")


def _stored_name(name: str) -> str:
    return name.replace("_", "-")


def _trainable(folder: Path, config: RunConfig, base: str | None) -> int:
    if base is None:
        return sum(p.numel() for p in build_sam(config.model).parameters())
    if config.steps == 0:
        return 0
    return count_parameters(config, load_base(folder / base).architecture).trainable


def _steps_per_epoch(config: RunConfig) -> int:
    rows = read_rows(Path(config.data.root), "train")
    count = sum(config.data.repeats.get(row.source, 1) for row in rows) + config.data.phantoms
    return max(1, count // config.batch_size)


def _rows_of(
    name: str, runs: Runs, folder: Path, work: Path, rows: Sequence[DataRow], sizes: dict[str, int]
) -> list[Row]:
    config, base = runs[name]
    predictor = _predictor(name, work)
    float_model = _predictor("adalora" if name in ("ptq", "qat") else name, work).model
    scores = [s for s in score_rows(predictor, name, rows, surface=True) if s.box == "own_box"]
    similar = compare_maps(
        predictor.model, float_model, rows, int(predictor.info.manifest.architecture["input_size"])
    )
    trainable = _trainable(folder, config, base)
    epoch_s = seconds_per_epoch(folder / name, _steps_per_epoch(config))
    table = []
    for source in sorted({s.source for s in scores}):
        mine = [s for s in scores if s.source == source]
        table.append(
            Row(
                name, source, len(mine), _mean(mine, "dice"), _mean(mine, "iou"),
                _mean(mine, "nsd"), _mean(mine, "hd95"), _mean(mine, "assd"),
                mine[0].unit or "px", float(np.mean([s.whole for s in similar[source]])),
                trainable, sizes[name], epoch_s,
            )
        )  # fmt: skip
    return table


def _mean(scores: Sequence[ImageScore], measure: str) -> float:
    return float(np.mean([getattr(score, measure) for score in scores]))


def _milliseconds(predictor: Predictor, rows: Sequence[DataRow]) -> float:
    """Return the median time from X-ray to mask, in ms."""
    times: list[float] = []
    for row in rows[: TIMED_IMAGES + 2]:
        xray = load_xray(row)
        height, width = xray.image.shape
        box: Box = (0.0, 0.0, float(width), float(height))
        started = time.perf_counter()
        predictor.predict(PredictionRequest(xray.image, (box,), row.convention))
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times[2:] or times)


def _print(table: Sequence[Row]) -> None:
    print(
        f"{'method':<13}{'data set':<12}{'n':>4}{'Dice':>8}{'IoU':>8}{'NSD':>8}{'HD95':>8}"
        f"{'ASSD':>7} {'':<10}{'SSIM':>8}{'trainable':>11}{'bytes':>12}{'s/epoch':>9}{'CPU ms':>8}"
    )
    for r in table:
        epoch = f"{r.epoch_s:.1f}" if r.epoch_s is not None else "-"
        print(
            f"{r.method:<13}{r.source:<12}{r.n:>4}{r.dice:>8.4f}{r.iou:>8.4f}{r.nsd:>8.4f}"
            f"{r.hd95:>8.2f}{r.assd:>7.2f} {r.unit:<10}{r.ssim:>8.4f}{r.trainable:>11,}"
            f"{r.size_bytes:>12,}{epoch:>9}{r.cpu_ms or 0:>8.1f}"
        )


def _parser() -> argparse.ArgumentParser:
    default = Effort()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.experiments.does_it_pay")
    parser.add_argument("--data", type=Path, required=True, help="folder with manifest.csv")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--split", default="val", choices=("val", "test"))
    parser.add_argument("--every", type=int, default=1, help="measure every n-th X-ray only")
    parser.add_argument("--device", default="auto", help="where to train: auto, cpu or cuda")
    parser.add_argument("--base-steps", type=int, default=default.base_steps)
    parser.add_argument("--steps", type=int, default=default.steps)
    parser.add_argument("--qat-steps", type=int, default=default.qat_steps)
    parser.add_argument("--batch-size", type=int, default=default.batch_size)
    parser.add_argument("--phantoms", type=int, default=default.phantoms)
    parser.add_argument("--workers", type=int, default=default.workers)
    parser.add_argument("--input-size", type=int, default=default.input_size)
    parser.add_argument("--compile", action="store_true", help="on a GPU: fewer, larger kernels")
    parser.add_argument("--processes", type=int, default=1, help="runs trained at a time")
    return parser


if __name__ == "__main__":
    sys.exit(main())
