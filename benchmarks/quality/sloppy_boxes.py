"""What happens when a box is off, and does the service say so? Moved boxes, poor masks, warnings.

Every edge of the tight box around both lungs moves by a uniform draw of up to so much of its side.
A mask is poor below a Dice of 0.85 against both lungs, and poor by the box where that is also 0.05
less than with the tight box. Else annotator and model disagree about the X-ray, and the box is not
the reason.

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

from model_store.model_index import default_model_folder
from model_store.predictor import PredictionRequest, Predictor
from service.imaging.mask_checks import check_mask
from training.data.dataset import load_xray, read_rows
from training.evaluation.box_jitter import moved_box
from training.evaluation.metrics import dice
from training.evaluation.scores import prompt_boxes

JITTERS = (0.0, 0.05, 0.10, 0.15, 0.20)
POOR_DICE = 0.85
LOST_DICE = 0.05
COUNTS = (
    "masks",
    "poor",
    "poor by the box",
    "of these warned",
    "good, warned",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Ask, count, print a table and one line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality.sloppy_boxes")
    parser.add_argument("--data", type=Path, required=True, help="folder with manifest.csv")
    parser.add_argument("--model", type=Path, default=default_model_folder())
    parser.add_argument("--split", default="val", choices=["train", "val", "test"])
    parser.add_argument("--draws", type=int, default=6, help="boxes per X-ray and jitter")
    options = parser.parse_args(arguments)
    table = count_warnings(
        Predictor.load(options.model), options.data, options.split, options.draws
    )
    print(f"{'moved by up to':<16}" + "".join(f"{name:>21}" for name in COUNTS))
    for jitter, counts in table.items():
        print(f"{jitter:<16}" + "".join(f"{counts[name]:>21}" for name in COUNTS))
    print(json.dumps(table))
    return 0


def count_warnings(
    predictor: Predictor, data: Path, split: str, draws: int
) -> dict[str, dict[str, int]]:
    """Return the `COUNTS` of each jitter."""
    table = {f"{share:.0%}": dict.fromkeys(COUNTS, 0) for share in JITTERS}
    for row in read_rows(data, split):
        xray = load_xray(row)
        tight, whole = prompt_boxes(xray)
        rng = np.random.default_rng([0, zlib.crc32(row.name.encode())])
        asked = [("0%", tight)]
        for share in JITTERS[1:]:
            asked += [(f"{share:.0%}", moved_box(tight, share, whole, rng)) for _ in range(draws)]
        request = PredictionRequest(xray.image, tuple(box for _, box in asked), xray.convention)
        answers = predictor.predict(request).masks
        best = dice(answers[0].mask, xray.mask)
        for (jitter, _), answer in zip(asked, answers, strict=True):
            found = dice(answer.mask, xray.mask)
            poor = found < POOR_DICE
            by_box = poor and found < best - LOST_DICE
            warned = bool(check_mask(answer))
            counts = table[jitter]
            counts["masks"] += 1
            counts["poor"] += poor
            counts["poor by the box"] += by_box
            counts["of these warned"] += by_box and warned
            counts["good, warned"] += warned and not poor
    return table


if __name__ == "__main__":
    sys.exit(main())
