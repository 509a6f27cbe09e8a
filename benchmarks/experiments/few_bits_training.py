"""The gain of training at few bits, against GPTQ, its frozen integers, and more float training.

All start from one stored float model, with one recipe and one part of `train`. They are: GPTQ
alone; GPTQ's integers frozen, with scales, biases and norms trained; every integer trained (QAT);
and the float model trained further with the same loss, which shows the gain without rounding. Each
runs with several seeds and is compared with the float model on X-rays of `val` with their own box.
Existing results in ``--out`` are used again, and a stopped run continues. With
``--activation-bits`` every layer's input has fewer bits than engines execute, in all but the last.

    python -m benchmarks.experiments.few_bits_training --data DATA --out runs/few_bits_training
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import torch

from benchmarks.experiments.training_runs import RECIPES, seconds_per_epoch, train_unless_done
from benchmarks.processor import processor_name
from benchmarks.quality.beside_float import FloatMasks, Row, kept, print_heading, print_row
from model_store.artifact import load_model
from model_store.model_index import default_float_twin_folder
from model_store.predictor import choose_device
from training.config import RunConfig, load_config
from training.data.dataset import load_xrays, read_rows, rows_of
from training.data.manifest_file import MANIFEST, SPLITS, read_manifest
from training.data.row_choice import spread
from training.quantization.config import ActivationBits
from training.quantization.fake_quantization import EXECUTED_BITS
from training.quantization.quantized_model import to_deployed
from training.stages.base import load_base

WAYS = ("gptq", "frozen", "qat", "float")
"""GPTQ alone, its integers frozen, its integers trained, and the float model trained further."""

FLOAT_LEVELS = 0
"""Number of levels in the table for float weights."""


@dataclass(frozen=True)
class Effort:
    """The sizes of the runs and their data.

    Attributes:
        steps: Steps of each training run.
        batch_size: X-rays per step.
        calibration: X-rays for GPTQ.
        train_per_source: X-rays of each data set of `train`.
        per_source: X-rays of each data set of `val`.
    """

    steps: int = 150
    batch_size: int = 2
    calibration: int = 48
    train_per_source: int = 60
    per_source: int = 10


def run_config(
    way: str,
    levels: int,
    seed: int,
    data: Path,
    twin: Path,
    effort: Effort,
    activation_bits: int = EXECUTED_BITS,
) -> RunConfig:
    """Return the run of one method: a smaller recipe of the stored two-bit model."""
    settings: dict[str, Any] = {
        "data.root": str(data), "data.workers": 0, "teacher.models": [str(twin)],
        "batch_size": effort.batch_size, "seed": seed,
        "steps": 0 if way == "gptq" else effort.steps,
        "validate_every_steps": 10**6, "checkpoint_every_steps": 25,
    }  # fmt: skip
    if way == "float":
        model = load_model(twin)[1].architecture
        settings |= {"stage": "pretrain", **{f"model.{name}": size for name, size in model.items()}}
    else:
        settings |= {
            "qat.weight_levels": levels, "qat.integers_learn": way != "frozen",
            "qat.activation_bits": activation_bits,
            "qat.calibration_batches": -(-effort.calibration // effort.batch_size),
        }  # fmt: skip
    return load_config(RECIPES / "cxr_lung_tiny_w2_stage2.toml", settings)


def write_part(data: Path, folder: Path, effort: Effort) -> None:
    """Write a data set of some rows of ``train`` and ``val``, with the files of ``data``."""
    manifest = read_manifest(data)
    chosen = {
        (split, row.name)
        for split, count in (("train", effort.train_per_source), ("val", effort.per_source))
        for row in spread(rows_of(manifest, split), count)
    }
    folder.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        link = folder / split
        if (data / split).is_dir() and not link.exists():
            link.symlink_to((data / split).resolve())
    rows = [r.fields for r in manifest.records if (r.fields["split"], r.fields["name"]) in chosen]
    with (folder / MANIFEST).open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train and measure missing runs, print the table and one line of JSON."""
    options = _parser().parse_args(arguments)
    effort = Effort(
        options.steps, options.batch_size, options.calibration, options.train_per_source,
        options.per_source,
    )  # fmt: skip
    model, manifest = load_model(options.twin)
    size = int(manifest.architecture["input_size"])
    # Runs with other steps, X-rays or another twin have another folder.
    asked = "_".join(str(value) for value in asdict(effort).values())
    if options.activation_bits != EXECUTED_BITS:
        asked += f"_activations{options.activation_bits}"
    folder = options.out / f"{manifest.name}_{manifest.version}_{asked}"
    data = folder / "data"
    write_part(options.data, data, effort)
    xrays = load_xrays(read_rows(data, "val"))
    print(f"{processor_name()}, {os.cpu_count()} cores; {manifest.name}/{manifest.version}, "
          f"{effort.steps} steps of {effort.batch_size}, {len(read_rows(data, 'train'))} X-rays of "
          f"train, {len(xrays)} of val, own box, activations of {options.activation_bits} "
          "bits")  # fmt: skip
    float_masks = FloatMasks.of(model, xrays, size, folder / "float_masks.pt")
    jobs = [
        (way, FLOAT_LEVELS if way == "float" else levels, seed)
        for seed in range(options.seeds)
        for levels in options.levels
        for way in options.ways
        if (way != "float" or levels == options.levels[0])
        and (way != "gptq" or seed == 0)  # it uses no random numbers
    ]
    print_heading()
    rows: list[Row] = []
    for way, levels, seed in jobs:
        place = folder / f"{way}_{levels}_{seed}"
        config = run_config(way, levels, seed, data, options.twin, effort, options.activation_bits)
        found = kept(
            place.with_suffix(".pt"),
            lambda: asdict(_trained(config, options.twin, place, float_masks, options.device)),  # noqa: B023
        )
        rows.append(Row(**found))
        print_row(rows[-1])
    summaries = summarize(rows, float_masks)
    _print_summaries(summaries)
    print(json.dumps({"effort": asdict(effort), "activation_bits": options.activation_bits,
                      "ways": [asdict(one) for one in summaries]}))  # fmt: skip
    return 0


def _trained(
    config: RunConfig, twin: Path, folder: Path, float_masks: FloatMasks, device: str
) -> Row:
    """Train a run to its end, and measure its deployed model."""
    train_unless_done(config, twin, folder, choose_device(device))
    model = load_base(folder).model
    levels = FLOAT_LEVELS
    if config.stage == "stage2":
        levels = config.qat.weight_levels
        if config.qat.activation_bits == EXECUTED_BITS:
            to_deployed(model)
    way = folder.name.partition("_")[0]
    seconds = seconds_per_epoch(folder, config.steps) or 0.0
    with torch.no_grad():
        return float_masks.row(model.eval().requires_grad_(False), way, levels, seconds)


@dataclass(frozen=True)
class Summary:
    """One method over its seeds.

    Attributes:
        way: One of `WAYS`.
        levels: Integers that a weight can have; 0 for floats.
        seeds: Number of runs.
        difference: Mean difference from the float model's Dice.
        sd: Standard deviation of that mean over the seeds; 0 for one.
        interval: 95 % interval by patient, each X-ray's difference the mean over the seeds.
        worst: The largest loss on an X-ray with any seed.
        equal_pixels: Mean share of pixels that equal the float model's.
    """

    way: str
    levels: int
    seeds: int
    difference: float
    sd: float
    interval: tuple[float, float] | None
    worst: float
    equal_pixels: float


def summarize(rows: Sequence[Row], float_masks: FloatMasks) -> list[Summary]:
    """Return a line for each method and number of levels, in order of appearance."""
    found = []
    for way, levels in dict.fromkeys((row.way, row.levels) for row in rows):
        own = [row for row in rows if (row.way, row.levels) == (way, levels)]
        means = [row.difference for row in own]
        of_xray = [statistics.mean(one) for one in zip(*(r.differences for r in own), strict=True)]
        found.append(
            Summary(
                way, levels, len(own), statistics.mean(means),
                statistics.stdev(means) if len(own) > 1 else 0.0, float_masks.interval(of_xray),
                min(row.worst for row in own), statistics.mean(row.equal_pixels for row in own),
            )
        )  # fmt: skip
    return found


def _print_summaries(summaries: Sequence[Summary]) -> None:
    print(f"\n{'way':<9}{'levels':>7}{'seeds':>6}{'difference':>12}{'SD':>8}"
          f"{'95 % interval':>22}{'worst':>9}{'equal':>9}")  # fmt: skip
    for one in summaries:
        low, high = one.interval or (float("nan"), float("nan"))
        print(f"{one.way:<9}{one.levels:>7}{one.seeds:>6}{one.difference:>+12.5f}{one.sd:>8.5f}"
              f"{f'[{low:+.4f}, {high:+.4f}]':>22}{one.worst:>+9.4f}"
              f"{one.equal_pixels:>9.4f}")  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    default = Effort()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.experiments.few_bits_training")
    parser.add_argument("--data", type=Path, required=True, help="folder with manifest.csv")
    parser.add_argument("--out", type=Path, default=Path("runs/few_bits_training"),
                        help="keeps runs and what was measured (default: %(default)s)")  # fmt: skip
    parser.add_argument("--twin", type=Path, default=default_float_twin_folder(),
                        help="stored float model (default: the served model's)")  # fmt: skip
    parser.add_argument("--ways", nargs="+", default=WAYS, choices=WAYS)
    parser.add_argument("--levels", type=int, nargs="+", default=(4, 2), help="2 to 16")
    parser.add_argument("--activation-bits", type=int, default=EXECUTED_BITS,
                        choices=get_args(ActivationBits),
                        help="bits of every layer's input (default: %(default)s)")  # fmt: skip
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=default.steps)
    parser.add_argument("--batch-size", type=int, default=default.batch_size)
    parser.add_argument("--calibration", type=int, default=default.calibration)
    parser.add_argument("--train-per-source", type=int, default=default.train_per_source)
    parser.add_argument("--per-source", type=int, default=default.per_source)
    parser.add_argument("--device", default="cpu", help="where to train: auto, cpu or cuda")
    return parser


if __name__ == "__main__":
    sys.exit(main())
