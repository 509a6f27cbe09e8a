"""Comparison of a model of few bits with its float model, on the same X-rays.

Expensive results are stored in files, so that a stopped command continues.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from model_store.sam import PromptableSam
from training.data.dataset import LabelledXray
from training.evaluation.metrics import dice
from training.evaluation.statistics import mean_interval
from training.run.validation import masks_of_each

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Row:
    """The results of one method against the float model.

    Attributes:
        way: Method of rounding, or the name of a stored model.
        levels: Integers that a weight can have.
        dice: Mean Dice with human masks.
        difference: Mean of the paired differences from the float model's Dice.
        interval: Bootstrap 95 % interval of that mean, by patient; None for one patient.
        worst: The largest loss on an X-ray.
        equal_pixels: Mean share of pixels that equal the float model's.
        seconds: Time of rounding or training.
        differences: Difference from the float model's Dice for each X-ray.
    """

    way: str
    levels: int
    dice: float
    difference: float
    interval: tuple[float, float] | None
    worst: float
    equal_pixels: float
    seconds: float
    differences: tuple[float, ...]


@dataclass(frozen=True)
class FloatMasks:
    """The float model's masks of some X-rays, for comparison.

    Attributes:
        xrays: The X-rays.
        size: Side of the models' input, in pixels.
        masks: Its mask of each, with the X-ray's own box.
        dices: Their Dice with human masks.
    """

    xrays: Sequence[LabelledXray]
    size: int
    masks: Sequence[Mask]
    dices: Sequence[float]

    @classmethod
    def of(
        cls, model: PromptableSam, xrays: Sequence[LabelledXray], size: int, file: Path
    ) -> FloatMasks:
        """Predict with the float model, or read its masks from ``file``."""
        masks = kept(file, lambda: _masks_of(copy.deepcopy(model), xrays, size))
        return cls(xrays, size, masks, _dices(masks, xrays))

    def row(self, model: PromptableSam, way: str, levels: int, seconds: float = 0.0) -> Row:
        """Predict with another model and compare."""
        masks = _masks_of(model, self.xrays, self.size)
        dices = _dices(masks, self.xrays)
        differences = [own - other for own, other in zip(dices, self.dices, strict=True)]
        equal = [float((a == b).mean()) for a, b in zip(masks, self.masks, strict=True)]
        return Row(
            way, levels, float(np.mean(dices)), float(np.mean(differences)),
            self.interval(differences), min(differences), float(np.mean(equal)), seconds,
            tuple(differences),
        )  # fmt: skip

    def interval(self, differences: Sequence[float]) -> tuple[float, float] | None:
        """Return the bootstrap 95 % interval of a mean; X-rays of one patient count as one."""
        of_patient: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
        for xray, difference in zip(self.xrays, differences, strict=True):
            of_patient[xray.source, xray.group].append(difference)
        return mean_interval(np.array([np.mean(own) for own in of_patient.values()]))

    def by_source(self, differences: Sequence[float]) -> str:
        """Return the mean of each data set's differences, in one line."""
        of_source: defaultdict[str, list[float]] = defaultdict(list)
        for xray, difference in zip(self.xrays, differences, strict=True):
            of_source[xray.source].append(difference)
        return ", ".join(f"{name} {np.mean(own):+.5f}" for name, own in of_source.items())


def kept(file: Path, make: Callable[[], Any]) -> Any:
    """Return the content of a file, or make and store it."""
    if not file.exists():
        partial = file.with_suffix(".partial")
        torch.save(make(), partial)
        partial.rename(file)
    return torch.load(file, weights_only=False)  # own files: arrays and plain types


def print_heading() -> None:
    """Print the heading of `print_row`'s columns."""
    print(f"{'way':<26}{'levels':>7}{'Dice':>8}{'difference':>12}{'95 % interval':>22}"
          f"{'worst':>9}{'equal':>9}{'took':>12}", flush=True)  # fmt: skip


def print_row(row: Row) -> None:
    """Print a row of the table."""
    interval = "-" if row.interval is None else f"[{row.interval[0]:+.4f}, {row.interval[1]:+.4f}]"
    print(f"{row.way:<26}{row.levels:>7}{row.dice:>8.4f}{row.difference:>+12.5f}{interval:>22}"
          f"{row.worst:>+9.4f}{row.equal_pixels:>9.4f}{row.seconds:>10.1f} s",
          flush=True)  # fmt: skip


def _masks_of(model: PromptableSam, xrays: Sequence[LabelledXray], size: int) -> list[Mask]:
    return [own for own, _ in masks_of_each(model, xrays, size)]


def _dices(masks: Sequence[Mask], xrays: Sequence[LabelledXray]) -> list[float]:
    return [dice(mask, xray.mask) for mask, xray in zip(masks, xrays, strict=True)]
