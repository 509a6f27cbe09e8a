"""Dice on unseen hospitals: each source is left out of training in turn.

For each source of the data set a model is trained from scratch on all others, and validated only on
theirs. Then it segments the left-out source, whose X-rays of every split are new to it. The output
also has its Dice on the ``val`` of the other sources. Finished runs in ``--out`` are not trained
again.

    python -m benchmarks.experiments.unseen_sources --data DATA --out runs/unseen
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.experiments.training_runs import (
    model_for,
    recipe,
    side_by_side,
    sizes_for,
    train_unless_done,
)
from benchmarks.processor import processor_name
from model_store.predictor import choose_device
from training.config import RunConfig
from training.data.dataset import load_xrays, read_rows
from training.evaluation.statistics import Summary
from training.run.validation import dice_of_each, validate
from training.stages.base import load_base

SPLITS = ("val", "test", "train")


@dataclass(frozen=True)
class Row:
    """One source, segmented by a model trained without it.

    Attributes:
        source: The source that was left out.
        own_box: Dice with the tight box of both lungs.
        whole_image: Dice with the whole image as the box.
        known: Mean Dice on the ``val`` split of each source that it trained on, own box.
    """

    source: str
    own_box: Summary
    whole_image: Summary
    known: dict[str, float]


def run_without(source: str, options: argparse.Namespace) -> RunConfig:
    """Return the recipe of the default model's base at a smaller size, without one source."""
    repeats = {"wingspan": 4, "montgomery": 6, "ieee8023": 6}
    return recipe(
        "pretrain",
        {
            **model_for(options.input_size),
            **sizes_for(options.input_size),
            "data.root": str(options.data),
            "data.leave_out": [source],
            "data.repeats": {name: n for name, n in repeats.items() if name != source},
            "data.workers": options.workers,
            "compile": options.compile,
            "batch_size": options.batch_size,
            "steps": options.steps,
            "optimizer.learning_rate": 1e-3,
            "optimizer.matrix_learning_rate": 2e-3,
            "optimizer.ema_decay": 0.998,
            "validate_every_steps": 10**6,
        },
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Train missing runs, measure, print the table and one line of JSON."""
    options = _parser().parse_args(arguments)
    sources = sorted({row.source for row in read_rows(options.data, "train")})
    job = functools.partial(_train_and_measure, options=options)
    table = side_by_side(job, sources, options.processes)
    print(f"{processor_name()}, {os.cpu_count()} cores; float model, {options.steps} steps")
    head = f"{'left out':<12}{'n':>5}   {'own box: mean':>14}{'median':>8}{'5th pc':>8}"
    print(head + f"   {'whole image':>12}   known sources")
    for row in table:
        known = ", ".join(f"{name} {value:.4f}" for name, value in row.known.items())
        print(
            f"{row.source:<12}{row.own_box.n:>5}   {row.own_box.mean:>14.4f}"
            f"{row.own_box.median:>8.4f}{row.own_box.percentile_5:>8.4f}"
            f"   {row.whole_image.mean:>12.4f}   {known}"
        )
    print(json.dumps([asdict(row) for row in table]))
    return 0


def _train_and_measure(source: str, options: argparse.Namespace) -> Row:
    folder = options.out / source
    device = choose_device(options.device)
    train_unless_done(run_without(source, options), None, folder, device)
    return _measure(folder, source, options)


def _measure(folder: Path, source: str, options: argparse.Namespace) -> Row:
    base = load_base(folder)
    base.model.to(choose_device(options.device))
    rows = [row for split in SPLITS for row in read_rows(options.data, split)]
    unseen = load_xrays([row for row in rows if row.source == source][: options.images])
    size = base.architecture.input_size
    scores = np.array(dice_of_each(base.model, unseen, size))  # (n, 2)
    known = [r for r in read_rows(options.data, "val") if r.source != source]
    inside = validate(base.model, load_xrays(known), size).own_box if known else {}
    return Row(source, Summary.of(scores[:, 0].tolist()), Summary.of(scores[:, 1].tolist()), inside)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.experiments.unseen_sources")
    parser.add_argument("--data", type=Path, required=True, help="folder with manifest.csv")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--images", type=int, default=400, help="most X-rays asked per source")
    parser.add_argument("--device", default="auto", help="where to train: auto, cpu or cuda")
    parser.add_argument("--steps", type=int, default=1300)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--input-size", type=int, default=256)
    parser.add_argument("--compile", action="store_true", help="on a GPU: fewer, larger kernels")
    parser.add_argument("--processes", type=int, default=1, help="sources trained at a time")
    return parser


if __name__ == "__main__":
    sys.exit(main())
