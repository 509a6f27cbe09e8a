"""How few bits a weight needs: integers without training, at 127 to 2 levels, three ways to round.

A float model's layers become integers of so many levels, activations 8 bits, and its masks are
compared with those of the float model on X-rays of `val` with their own box: Dice against people
(paired difference, interval, worst X-ray) and equal pixels. Stored models, trained for few bits,
are added by ``--model``. Integer models run as they are deployed. What ``--out`` holds already is
not measured again, so a stopped command goes on where it was.

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
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.processor import processor_name
from model_store.artifact import load_model
from model_store.geometry import InputGeometry
from model_store.model_index import default_float_twin_folder
from model_store.sam import PromptableSam
from model_store.weight_levels import WeightLevels
from training.data.dataset import LabelledXray, load_xrays, read_rows
from training.data.row_choice import spread
from training.evaluation.metrics import dice
from training.evaluation.scores import prompt_boxes
from training.evaluation.statistics import compare_paired
from training.quantization.input_moments import InputMoments
from training.quantization.post_training import (
    ROUNDINGS,
    ModelInputs,
    Rounding,
    add_few_levels,
    float_layer_names,
    observe,
    round_layer,
)
from training.quantization.quantized_model import to_deployed
from training.run.validation import masks_of_each

LEVELS = (127, 15, 7, 4, 3, 2)
"""8, 4, 3, 2, 1.6 and 1 bits a weight."""

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Row:
    """One way to round, or one trained model, beside the float model on the same X-rays.

    Attributes:
        way: How weights became integers, or the name of a stored model.
        levels: Integers that a weight may be.
        dice: Mean Dice against people.
        difference: Mean of the paired differences from the float model's Dice.
        interval: Bootstrap 95 % interval of that mean.
        worst: The largest loss on an X-ray.
        equal_pixels: Mean share of pixels that equal the float model's.
        rounding_s: Seconds that rounding took, without the moments.
    """

    way: str
    levels: int
    dice: float
    difference: float
    interval: tuple[float, float] | None
    worst: float
    equal_pixels: float
    rounding_s: float


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
    options.out.mkdir(parents=True, exist_ok=True)
    masks = _kept(options.out / "float_masks.pt", lambda: Beside.masks_of(model, xrays, size))
    beside = Beside(xrays, size, masks, _dices(masks, xrays))
    print(f"float: Dice {np.mean(beside.dices):.4f}")
    print(f"{'way':<26}{'levels':>7}{'Dice':>8}{'difference':>12}{'95 % interval':>22}"
          f"{'worst':>9}{'equal':>9}{'rounded in':>12}", flush=True)  # fmt: skip
    observed = _Observed(model, seen, size, options.out / "moments.pt")
    jobs = [
        (f"{way}_{count}", functools.partial(_rounded_row, observed, beside, count, way))
        for count in options.levels
        for way in options.rounding
    ]
    jobs += [
        (f"{folder.parent.name}_{folder.name}", functools.partial(_stored_row, folder, beside))
        for folder in options.model
    ]
    rows: list[Row] = []
    for name, job in jobs:
        found = _kept(options.out / f"{name}.pt", lambda job=job: asdict(job()))  # type: ignore[misc]
        rows.append(Row(**found))
        _print(rows[-1])
    print(json.dumps([asdict(row) for row in rows]))
    return 0


@dataclass(frozen=True)
class Beside:
    """The float model's masks of some X-rays, which others are compared with.

    Attributes:
        xrays: The X-rays.
        size: Side of the models' input, in pixels.
        masks: Its mask of each, with the X-ray's own box.
        dices: Their Dice against people.
    """

    xrays: Sequence[LabelledXray]
    size: int
    masks: Sequence[Mask]
    dices: Sequence[float]

    @staticmethod
    def masks_of(model: PromptableSam, xrays: Sequence[LabelledXray], size: int) -> list[Mask]:
        """Ask the float model."""
        return [own for own, _ in masks_of_each(copy.deepcopy(model), xrays, size)]

    def row(self, model: PromptableSam, way: str, levels: int, rounding_s: float = 0.0) -> Row:
        """Ask an integer model and compare."""
        masks = [own for own, _ in masks_of_each(model, self.xrays, self.size)]
        dices = _dices(masks, self.xrays)
        found = compare_paired(dices, self.dices)
        equal = [float((a == b).mean()) for a, b in zip(masks, self.masks, strict=True)]
        return Row(
            way, levels, float(np.mean(dices)), found.mean, found.interval, found.lowest,
            float(np.mean(equal)), rounding_s,
        )  # fmt: skip


def _dices(masks: Sequence[Mask], xrays: Sequence[LabelledXray]) -> list[float]:
    return [dice(mask, xray.mask) for mask, xray in zip(masks, xrays, strict=True)]


class _Observed:
    """What the layers of a float model see: activation scales and moments, found when needed."""

    def __init__(
        self, model: PromptableSam, seen: Sequence[LabelledXray], size: int, file: Path
    ) -> None:
        self.model = model
        self._seen, self._size, self._file = seen, size, file

    @functools.cached_property
    def found(self) -> dict[str, dict[str, Any]]:
        """Fields of `InputMoments` and the scale's logarithm, by layer."""
        kept: dict[str, dict[str, Any]] = _kept(self._file, self._observe)
        return kept

    def _observe(self) -> dict[str, dict[str, Any]]:
        copied = copy.deepcopy(self.model)
        layers = add_few_levels(copied, WeightLevels(127), float_layer_names(copied))
        inputs = (_inputs(copied, xray, self._size) for xray in self._seen)
        return {
            name: {"log_scale": layers[name].log_scale.detach(), **vars(moments)}
            for name, moments in observe(copied, layers, inputs).items()
        }


@torch.no_grad()
def _rounded_row(observed: _Observed, beside: Beside, count: int, way: Rounding) -> Row:
    """Measure the integer model of one way to round."""
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
    return beside.row(copied.eval().requires_grad_(False), way, count, seconds)


def _kept(file: Path, make: Callable[[], Any]) -> Any:
    """Return what a file holds, or make it and keep it there."""
    if not file.exists():
        partial = file.with_suffix(".partial")
        torch.save(make(), partial)
        partial.rename(file)
    return torch.load(file, weights_only=False)  # own files: arrays and plain types


def _inputs(model: PromptableSam, xray: LabelledXray, size: int) -> ModelInputs:
    """Return an X-ray as the model gets it, with its own box and the whole image."""
    height, width = xray.image.shape
    geometry = InputGeometry(width, height, size)
    pixels = torch.from_numpy(geometry.image_to_input(xray.image))
    valid = torch.from_numpy(geometry.valid_region())
    boxes = torch.tensor([geometry.box_to_input(box) for box in prompt_boxes(xray)])
    normalized = model.normalize(pixels[None, None], valid[None, None])
    return normalized, boxes, torch.zeros(len(boxes), dtype=torch.int64)


def _stored_row(folder: Path, beside: Beside) -> Row:
    model, manifest = load_model(folder)
    counts = set(manifest.quantization.weight_levels.values()) or {127}
    return beside.row(model, f"{manifest.name}/{manifest.version}", max(counts))


def _print(row: Row) -> None:
    interval = "-" if row.interval is None else f"[{row.interval[0]:+.4f}, {row.interval[1]:+.4f}]"
    print(f"{row.way:<26}{row.levels:>7}{row.dice:>8.4f}{row.difference:>+12.5f}{interval:>22}"
          f"{row.worst:>+9.4f}{row.equal_pixels:>9.4f}{row.rounding_s:>10.1f} s",
          flush=True)  # fmt: skip


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
