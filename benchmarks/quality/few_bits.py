"""The bits that a weight needs: integers of 127 to 2 levels without training, by three methods.

A float model's weights are rounded to a number of levels, activations to 8 bits. Its masks are
compared with the float model's on X-rays of `val` with their own box: Dice with human masks (paired
difference, interval, worst X-ray) and equal pixels. ``--model`` adds stored models trained for few
bits. Integer models run as deployed. Existing results in ``--out`` are used again, so a stopped
command continues.

    python -m benchmarks.quality.few_bits --data DATA
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.processor import processor_name
from benchmarks.quality.beside_float import FloatMasks, Row, kept, print_heading, print_row
from model_store.artifact import load_model
from model_store.model_index import default_float_twin_folder
from model_store.sam import PromptableSam
from model_store.weight_levels import WeightLevels
from training.data.dataset import LabelledXray, load_xrays, read_rows
from training.data.row_choice import spread
from training.quantization.calibration import calibration_inputs
from training.quantization.input_moments import InputMoments
from training.quantization.post_training import (
    ROUNDINGS,
    Rounding,
    add_few_levels,
    float_layer_names,
    observe,
    round_layer,
)
from training.quantization.quantized_model import to_deployed

LEVELS = (127, 15, 7, 4, 3, 2)
"""Levels for 8, 4, 3, 2, 1.6 and 1 bits a weight."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Round, ask, print the table and one line of JSON."""
    options = _parser().parse_args(arguments)
    model, manifest = load_model(options.twin)
    size = int(manifest.architecture["input_size"])
    seen = load_xrays(spread(read_rows(options.data, "train"), options.calibration))
    xrays = load_xrays(spread(read_rows(options.data, options.split), options.per_source))
    print(f"{processor_name()}, {os.cpu_count()} cores; {manifest.name}/{manifest.version}, "
          f"{len(xrays)} X-rays of {options.split}, own box; moments of {len(seen)} X-rays of "
          "train")  # fmt: skip
    # Stored results belong to these X-rays and this model only.
    asked = f"{options.split}_{options.per_source}_{options.calibration}"
    folder = options.out / f"{manifest.name}_{manifest.version}_{asked}"
    folder.mkdir(parents=True, exist_ok=True)
    float_masks = FloatMasks.of(model, xrays, size, folder / "float_masks.pt")
    print(f"float: Dice {np.mean(float_masks.dices):.4f}")
    print_heading()
    observed = _Observed(model, seen, size, folder / "moments.pt")
    jobs = [
        (f"{way}_{count}", functools.partial(_rounded_row, observed, float_masks, count, way))
        for count in options.levels
        for way in options.rounding
    ]
    jobs += [
        (f"{stored.parent.name}_{stored.name}", functools.partial(_stored_row, stored, float_masks))
        for stored in options.model
    ]
    rows: list[Row] = []
    for name, job in jobs:
        found = kept(folder / f"{name}.pt", lambda job=job: asdict(job()))  # type: ignore[misc]
        rows.append(Row(**found))
        print_row(rows[-1])
        by_source = float_masks.by_source(rows[-1].differences)
        print(f"  difference by data set: {by_source}", flush=True)
    print(json.dumps([asdict(row) for row in rows]))
    return 0


class _Observed:
    """Activation scales and input moments of a float model's layers, computed on demand."""

    def __init__(
        self, model: PromptableSam, seen: Sequence[LabelledXray], size: int, file: Path
    ) -> None:
        self.model = model
        self._seen, self._size, self._file = seen, size, file

    @functools.cached_property
    def found(self) -> dict[str, dict[str, Any]]:
        """Return the fields of `InputMoments` and the scale's logarithm, by layer."""
        found: dict[str, dict[str, Any]] = kept(self._file, self._observe)
        return found

    def _observe(self) -> dict[str, dict[str, Any]]:
        copied = copy.deepcopy(self.model)
        layers = add_few_levels(copied, WeightLevels(127), float_layer_names(copied))
        inputs = calibration_inputs(copied, self._seen, self._size)
        return {
            name: {"log_scale": layers[name].log_scale.detach(), **vars(moments)}
            for name, moments in observe(copied, layers, inputs).items()
        }


@torch.no_grad()
def _rounded_row(observed: _Observed, float_masks: FloatMasks, count: int, way: Rounding) -> Row:
    """Measure the integer model of one method of rounding."""
    found = observed.found
    started = time.perf_counter()
    copied = copy.deepcopy(observed.model)
    for name, layer in add_few_levels(
        copied, WeightLevels(count), float_layer_names(copied)
    ).items():
        seen = {field: found[name][field] for field in ("count", "total", "products")}
        layer.log_scale.copy_(found[name]["log_scale"])
        round_layer(layer, InputMoments(**seen), way)
    to_deployed(copied)
    seconds = time.perf_counter() - started
    return float_masks.row(copied.eval().requires_grad_(False), way, count, seconds)


def _stored_row(folder: Path, float_masks: FloatMasks) -> Row:
    model, manifest = load_model(folder)
    counts = set(manifest.quantization.weight_levels.values()) or {127}
    return float_masks.row(model, f"{manifest.name}/{manifest.version}", max(counts))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality.few_bits")
    parser.add_argument("--data", type=Path, required=True, help="folder with manifest.csv")
    parser.add_argument("--twin", type=Path, default=default_float_twin_folder(),
                        help="stored float model (default: the served model's)")  # fmt: skip
    parser.add_argument("--model", type=Path, action="append", default=[],
                        help="stored integer model to add; may be repeated")  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("runs/few_bits"),
                        help="keeps what was measured (default: %(default)s)")  # fmt: skip
    parser.add_argument("--split", default="val", choices=("val", "test"))
    parser.add_argument("--per-source", type=int, default=10, help="X-rays of each data set")
    parser.add_argument("--calibration", type=int, default=12,
                        help="X-rays of each data set of train that moments come from")  # fmt: skip
    parser.add_argument("--levels", type=int, nargs="*", default=LEVELS)
    parser.add_argument("--rounding", nargs="*", default=ROUNDINGS, choices=ROUNDINGS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
