"""Does another threshold or a second pass improve a stored model without training?

The split is `val`, the box the whole image. For each convention, the threshold of the logits is
chosen on the patients of all folds but one and applied to that fold. So no X-ray is measured with a
threshold that it helped to choose. The second pass predicts again with the box of the first mask,
as a caller could. Printed are mean Dice, 5th percentile and the paired difference for each data
set.

    python -m benchmarks.quality.without_training --data DATA
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.processor import processor_name
from model_store.artifact import load_model
from model_store.conventions import CONVENTIONS, token_of
from model_store.engine.choice import choose_engine
from model_store.engine.protocol import Engine
from model_store.geometry import Box, InputGeometry
from model_store.mask_resampling import logits_above
from model_store.model_index import default_model_folder
from model_store.sam import PromptableSam
from training.data.dataset import LabelledXray, fold_of, load_xray, read_rows
from training.data.prompts import tight_box
from training.data.row_choice import limited
from training.evaluation.metrics import dice
from training.evaluation.statistics import compare_paired

LOGITS = tuple(round(0.25 * step, 2) for step in range(-8, 9))
"""Thresholds to choose from; 0 is a probability of one half."""

FOLDS = 5


@dataclass(frozen=True)
class Scored:
    """One X-ray.

    Attributes:
        source: Name of the data set.
        convention: Convention of its annotation.
        fold: Fold of its patient.
        dices: Dice at each threshold, in the order of `LOGITS`.
        again: Dice of the second pass, at a threshold of 0.
    """

    source: str
    convention: str
    fold: int
    dices: tuple[float, ...]
    again: float


@dataclass(frozen=True)
class Line:
    """One data set segmented in one way, compared with how the service does it now."""

    way: str
    source: str
    n: int
    dice: float
    percentile_5: float
    difference: float
    interval: tuple[float, float] | None
    wilcoxon_p: float


class ThresholdScorer:
    """Scores of a stored model's masks, one X-ray after the other."""

    def __init__(self, model: PromptableSam, input_size: int) -> None:
        """Take a loaded model and the side of its input, in pixels."""
        self._model, self._size = model, input_size
        self._engine: Engine = choose_engine(model, input_size)

    @torch.inference_mode()
    def score(self, xray: LabelledXray) -> Scored:
        """Segment the whole image; score every threshold and the second pass."""
        height, width = xray.image.shape
        geometry = InputGeometry(width, height, self._size)
        pixels = torch.from_numpy(geometry.image_to_input(xray.image))[None, None]
        valid = torch.from_numpy(geometry.valid_region())[None, None]
        embedding = self._engine.encode_image(self._model.normalize(pixels, valid))

        def logits(box: Box) -> NDArray[np.float32]:
            prompt = torch.tensor([geometry.box_to_input(box)])
            found = self._engine.decode_box(embedding, prompt)[0][0, token_of(xray.convention)]
            array: NDArray[np.float32] = found.float().cpu().numpy()
            return array

        whole = (0.0, 0.0, float(width), float(height))
        first = logits(whole)
        masks = [logits_above(first, geometry, threshold) for threshold in LOGITS]
        box = tight_box(masks[LOGITS.index(0.0)]) or whole
        again = logits_above(logits(box), geometry, 0.0)
        return Scored(
            xray.source, xray.convention, fold_of(xray.group, FOLDS),
            tuple(dice(mask, xray.mask) for mask in masks), dice(again, xray.mask),
        )  # fmt: skip


def chosen_thresholds(scored: Sequence[Scored], convention: str, left_out: int) -> int:
    """Return the index in `LOGITS` of the best mean over data sets, without one fold."""
    own = [s for s in scored if s.convention == convention and s.fold != left_out]
    means = [
        np.mean([s.dices for s in own if s.source == source], axis=0)
        for source in sorted({s.source for s in own})
    ]
    return int(np.argmax(np.mean(means, axis=0)))


def lines_of(scored: Sequence[Scored]) -> list[Line]:
    """Return a line for each way and data set."""
    today = LOGITS.index(0.0)
    chosen = {
        (convention, fold): chosen_thresholds(scored, convention, fold)
        for convention in {s.convention for s in scored}
        for fold in range(FOLDS)
    }
    ways: dict[str, Callable[[Scored], float]] = {
        "today": lambda s: s.dices[today],
        "threshold by folds": lambda s: s.dices[chosen[s.convention, s.fold]],
        "asked again": lambda s: s.again,
    }
    found = []
    for way, value in ways.items():
        for source in sorted({s.source for s in scored}):
            own = [s for s in scored if s.source == source]
            dices = [value(s) for s in own]
            compared = compare_paired(dices, [s.dices[today] for s in own])
            found.append(
                Line(
                    way, source, len(own), float(np.mean(dices)), float(np.percentile(dices, 5)),
                    compared.mean, compared.interval, compared.wilcoxon_p,
                )
            )  # fmt: skip
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Segment, print the table and one line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality.without_training")
    parser.add_argument("--data", type=Path, required=True, help="folder with manifest.csv")
    parser.add_argument("--model", type=Path, default=default_model_folder())
    parser.add_argument("--limit", type=int, default=0, help="X-rays of each source; 0 takes all")
    options = parser.parse_args(arguments)
    model, manifest = load_model(options.model)
    scorer = ThresholdScorer(model, int(manifest.architecture["input_size"]))
    rows = limited(read_rows(options.data, "val"), options.limit)
    scored = [scorer.score(load_xray(row)) for row in rows]
    print(f"{processor_name()}, {os.cpu_count()} cores; {manifest.name}/{manifest.version}, "
          f"{len(scored)} X-rays of val, whole image")  # fmt: skip
    thresholds = {
        convention: LOGITS[chosen_thresholds(scored, convention, FOLDS)]
        for convention in CONVENTIONS
        if any(s.convention == convention for s in scored)
    }
    print(f"best threshold of the logits on all: {thresholds}")
    print(f"{'way':<20}{'data set':<12}{'n':>4}{'Dice':>8}{'5th pc':>8}{'difference':>12}"
          f"{'95 % interval':>22}{'p':>9}")  # fmt: skip
    lines = lines_of(scored)
    for one in lines:
        low, high = one.interval or (float("nan"), float("nan"))
        print(f"{one.way:<20}{one.source:<12}{one.n:>4}{one.dice:>8.4f}{one.percentile_5:>8.4f}"
              f"{one.difference:>+12.5f}{f'[{low:+.5f}, {high:+.5f}]':>22}"
              f"{one.wilcoxon_p:>9.2g}")  # fmt: skip
    print(json.dumps({"thresholds": thresholds, "lines": [asdict(one) for one in lines]}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
