"""Boxes that do not fit: how many masks get poor, and how many of these the service warns of.

Every edge of the tight box around both lungs moves by a uniform random part of the box's side, up
to a limit. A mask is poor if its Dice against both lungs is below 0.85. The box is the reason if
the Dice is also 0.05 lower than with the tight box; otherwise annotator and model disagree about
the X-ray. Boxes of one lung, which should give that lung without a warning, and halves of the
picture are counted too.

    python -m benchmarks.quality.sloppy_boxes --data DATA
"""

from __future__ import annotations

import argparse
import json
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.processor import processor_name
from model_store.boxes import Box
from model_store.model_index import default_model_folder
from model_store.predictor import PredictionRequest, Predictor
from service.imaging.mask_checks import check_mask
from training.data.dataset import LabelledXray, load_xray, read_rows, split_lungs
from training.data.prompts import tight_box
from training.evaluation.box_jitter import moved_box
from training.evaluation.metrics import dice
from training.evaluation.scores import prompt_boxes

JITTERS = (0.0, 0.05, 0.10, 0.15, 0.20)
POOR_DICE = 0.85
LOST_DICE = 0.05
LUNG_DRAWS = 2
"""Boxes drawn for each lung and jitter."""
HALF = "half of the picture"
ONE_LUNG = ("tight", "10%", "20%", HALF)
COUNTS = (
    "masks",
    "poor",
    "poor by the box",
    "of these warned",
    "good, warned",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Segment, count, print a table and one line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality.sloppy_boxes")
    parser.add_argument("--data", type=Path, required=True, help="folder with manifest.csv")
    parser.add_argument("--model", type=Path, default=default_model_folder())
    parser.add_argument("--split", default="val", choices=["train", "val", "test"])
    parser.add_argument("--draws", type=int, default=6, help="boxes per X-ray and jitter")
    options = parser.parse_args(arguments)
    predictor = Predictor.load(options.model)
    tables = {
        "both lungs": count_warnings(predictor, options.data, options.split, options.draws),
        "one lung": count_one_lung(predictor, options.data, options.split),
    }
    print(f"{processor_name()}, {options.split}")
    for name, table in tables.items():
        print(f"\n{f'{name}, moved by':<24}" + "".join(f"{count:>21}" for count in COUNTS))
        for moved, counts in table.items():
            print(f"{moved:<24}" + "".join(f"{counts[count]:>21}" for count in COUNTS))
    print(json.dumps(tables))
    return 0


def count_warnings(
    predictor: Predictor, data: Path, split: str, draws: int
) -> dict[str, dict[str, int]]:
    """Return the `COUNTS` of each jitter of boxes around both lungs."""
    table = {f"{share:.0%}": dict.fromkeys(COUNTS, 0) for share in JITTERS}
    for row in read_rows(data, split):
        xray = load_xray(row)
        tight, whole = prompt_boxes(xray)
        rng = np.random.default_rng([0, zlib.crc32(row.name.encode())])
        asked = [("0%", tight)]
        for share in JITTERS[1:]:
            asked += [(f"{share:.0%}", moved_box(tight, share, whole, rng)) for _ in range(draws)]
        _count(table, predictor, xray, asked, xray.mask)
    return table


def count_one_lung(predictor: Predictor, data: Path, split: str) -> dict[str, dict[str, int]]:
    """Return the `COUNTS` of boxes of one lung, and of halves of the picture."""
    table = {name: dict.fromkeys(COUNTS, 0) for name in ONE_LUNG}
    for row in read_rows(data, split):
        xray = load_xray(row)
        _, whole = prompt_boxes(xray)
        rng = np.random.default_rng([1, zlib.crc32(row.name.encode())])
        for lung, half in zip(split_lungs(xray.mask), _halves(whole), strict=True):
            tight = tight_box(lung)
            if tight is None:
                continue
            asked = [("tight", tight), (HALF, half)]
            for share in (0.1, 0.2):
                boxes = [moved_box(tight, share, whole, rng) for _ in range(LUNG_DRAWS)]
                asked += [(f"{share:.0%}", box) for box in boxes]
            _count(table, predictor, xray, asked, lung)
    return table


def _halves(whole: Box) -> tuple[Box, Box]:
    _, _, width, height = whole
    return (0.0, 0.0, width / 2, height), (width / 2, 0.0, width, height)


def _count(
    table: dict[str, dict[str, int]],
    predictor: Predictor,
    xray: LabelledXray,
    asked: Sequence[tuple[str, Box]],
    truth: NDArray[np.bool_],
) -> None:
    """Count the masks of some boxes of one X-ray; the first box is the tight one."""
    request = PredictionRequest(xray.image, tuple(box for _, box in asked), xray.convention)
    answers = predictor.predict(request).masks
    best = dice(answers[0].mask, truth)
    for (name, _), answer in zip(asked, answers, strict=True):
        found = dice(answer.mask, truth)
        poor = found < POOR_DICE
        by_box = poor and found < best - LOST_DICE
        warned = bool(check_mask(answer))
        counts = table[name]
        counts["masks"] += 1
        counts["poor"] += poor
        counts["poor by the box"] += by_box
        counts["of these warned"] += by_box and warned
        counts["good, warned"] += warned and not poor


if __name__ == "__main__":
    sys.exit(main())
