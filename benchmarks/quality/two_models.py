"""How much of the missing Dice is due to the model, and how much to the annotators.

Two models trained independently may agree with each other far better than with the annotators. Then
most of the missing Dice is how one annotator outlined one X-ray. ``--split train`` shows how much
of that a model reproduces on its own training data.

    python -m benchmarks.quality.two_models --data DATA
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model_store.model_index import default_model_folder
from model_store.predictor import PredictionRequest, Predictor
from training.data.dataset import LabelledXray, load_xray, read_rows
from training.evaluation.metrics import dice
from training.evaluation.scores import prompt_boxes


@dataclass(frozen=True)
class Row:
    """Mean Dice on one data set, every X-ray with its own box.

    Attributes:
        source: Name of the data set.
        n: Segmented X-rays.
        first: The first model against the annotators.
        second: The second model against the annotators.
        both: The two models against each other.
    """

    source: str
    n: int
    first: float
    second: float
    both: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Segment with both models, print a table and one line of JSON."""
    newest = default_model_folder()
    before = newest.parent / str(int(newest.name) - 1)
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality.two_models")
    parser.add_argument("--data", type=Path, required=True, help="folder with manifest.csv")
    parser.add_argument("--models", type=Path, nargs=2, default=[before, newest])
    parser.add_argument("--split", default="val", choices=["train", "val", "test"])
    parser.add_argument("--most", type=int, default=1000, help="X-rays segmented of each data set")
    options = parser.parse_args(arguments)
    predictors = [Predictor.load(folder) for folder in options.models]
    table = compare(predictors[0], predictors[1], options.data, options.split, options.most)
    names = [f"{one.info.name} {one.info.version}" for one in predictors]
    print(f"{'data set':<12}{'n':>5}{names[0]:>18}{names[1]:>18}{'each other':>12}")
    for row in table:
        print(f"{row.source:<12}{row.n:>5}{row.first:>18.4f}{row.second:>18.4f}{row.both:>12.4f}")
    print(json.dumps([asdict(row) for row in table]))
    return 0


def compare(first: Predictor, second: Predictor, data: Path, split: str, most: int) -> list[Row]:
    """Return a row for each data set, from at most ``most`` X-rays, evenly spaced in it."""
    rows = read_rows(data, split)
    table = []
    for source in sorted({row.source for row in rows}):
        mine = [row for row in rows if row.source == source]
        mine = mine[:: -(-len(mine) // most)]
        scores = []
        for row in mine:
            xray = load_xray(row)
            one, two = _mask(first, xray), _mask(second, xray)
            scores.append((dice(one, xray.mask), dice(two, xray.mask), dice(one, two)))
        table.append(Row(source, len(mine), *np.mean(scores, axis=0).tolist()))
    return table


def _mask(predictor: Predictor, xray: LabelledXray) -> NDArray[np.bool_]:
    box, _ = prompt_boxes(xray)
    return predictor.predict(PredictionRequest(xray.image, (box,), xray.convention)).masks[0].mask


if __name__ == "__main__":
    sys.exit(main())
