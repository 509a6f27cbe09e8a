"""Portable X-rays, hearts and children: X-rays without lung masks, or without a fitting score.

The box is the whole image. Printed for each view of a folder without masks, and for children with
the convention `lung_field`: the share of masks with the warning `undecided_mask`, the share in more
than two pieces (parts over 0.2 % of the mask), and the median confidence. Printed for hearts that
people outlined: Dice, and bias and limits of agreement of the cardiothoracic ratio (width of the
heart over width of the lungs).

    python -m benchmarks.quality.portable_xrays --data DATA --unlabelled DIR --hearts DIR
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from model_store.conventions import CONVENTIONS, Convention
from model_store.geometry import window_to_uint8
from model_store.model_index import default_model_folder
from model_store.prediction import MaskPrediction
from model_store.predictor import PredictionRequest, Predictor
from model_store.structures import HEART, LUNGS, Structure
from training.data.dataset import load_xray, read_rows
from training.data.unlabelled import read_unlabelled
from training.data.xray_files import read_xray
from training.evaluation.metrics import dice

UNDECIDED = 0.94
"""Below this confidence the service warns of `undecided_mask`."""

SMALLEST_PIECE = 0.002
"""Parts below this share of a mask are specks."""

Mask = NDArray[np.bool_]


def main(arguments: Sequence[str] | None = None) -> int:
    """Segment, print both tables and one line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality.portable_xrays")
    parser.add_argument("--data", type=Path, required=True, help="folder with manifest.csv")
    parser.add_argument("--unlabelled", type=Path, help="X-rays with name and projection")
    parser.add_argument("--hearts", type=Path, help="folder with heart/NAME.png")
    parser.add_argument("--model", type=Path, default=default_model_folder())
    parser.add_argument("--split", default="val", choices=["train", "val", "test"])
    options = parser.parse_args(arguments)
    predictor = Predictor.load(options.model)
    found = defaultdict(list)
    if options.unlabelled is not None:
        for view, image in unlabelled(options.unlabelled):
            for convention in CONVENTIONS:
                found[view, convention].append(ask(predictor, image, convention))
    for row in read_rows(options.data, options.split):
        if row.source == "kermany":
            answer = ask(predictor, load_xray(row).image, "lung_field")
            found["children", "lung_field"].append(answer)
    table = [describe(view, convention, masks) for (view, convention), masks in found.items()]
    print("| X-rays | convention | n | undecided | more than two pieces | confidence |")
    print("|---|---|---|---|---|---|")
    for line in table:
        print(f"| {' | '.join(str(value) for value in line.values())} |")
    result: dict[str, object] = {"masks": table}
    if options.hearts is not None and HEART in predictor.info.manifest.structures:
        result["hearts"] = hearts(predictor, options)
        print(result["hearts"])
    print(json.dumps(result))
    return 0


def unlabelled(folder: Path) -> list[tuple[str, NDArray[np.uint8]]]:
    """Return view and grey values of each X-ray without a mask."""
    return [
        (xray.projection, window_to_uint8(read_xray(xray.path).upright))
        for xray in read_unlabelled(folder, ("projection",))
    ]


def ask(
    predictor: Predictor,
    image: NDArray[np.uint8],
    convention: Convention,
    structure: Structure = LUNGS,
) -> MaskPrediction:
    """Return the model's answer with the whole image as the box."""
    request = PredictionRequest(image, convention=convention, structure=structure)
    return predictor.predict(request).masks[0]


def describe(view: str, convention: str, masks: Sequence[MaskPrediction]) -> dict[str, object]:
    """Return a line of the table."""
    confidences = [mask.confidence for mask in masks]
    pieces = [pieces_of(mask.mask) > 2 for mask in masks]
    return {
        "X-rays": view,
        "convention": convention,
        "n": len(masks),
        "undecided": f"{np.mean([value < UNDECIDED for value in confidences]):.1%}",
        "more than two pieces": f"{np.mean(pieces):.1%}",
        "confidence": round(float(np.median(confidences)), 3),
    }


def pieces_of(mask: Mask) -> int:
    """Count the parts of a mask, without specks."""
    labels, _ = ndimage.label(mask)
    areas = np.bincount(labels.ravel())[1:]
    return int((areas > SMALLEST_PIECE * max(int(mask.sum()), 1)).sum())


def hearts(predictor: Predictor, options: argparse.Namespace) -> dict[str, float]:
    """Compare the masks of hearts and the cardiothoracic ratios with those of people."""
    scores, differences = [], []
    for row in read_rows(options.data, options.split):
        path = options.hearts / "heart" / f"{row.name}.png"
        if not path.is_file():
            continue
        xray = load_xray(row)
        with Image.open(path) as file:
            true = np.asarray(file.convert("L")) > 0
        heart = ask(predictor, xray.image, "lung_field", HEART).mask
        lungs = ask(predictor, xray.image, "lung_field").mask
        scores.append(dice(heart, true))
        ratio = width_px(heart) / max(width_px(lungs), 1)
        differences.append(ratio - width_px(true) / max(width_px(xray.mask), 1))
    return {
        "n": len(scores),
        "Dice": round(float(np.mean(scores)), 4),
        "ratio, bias": round(float(np.mean(differences)), 4),
        "ratio, limits of agreement": round(1.96 * float(np.std(differences, ddof=1)), 4),
    }


def width_px(mask: Mask) -> int:
    """Return the width of a mask from its leftmost to its rightmost column, in pixels."""
    columns = np.flatnonzero(mask.any(axis=0))
    return int(columns[-1] - columns[0] + 1) if len(columns) else 0


if __name__ == "__main__":
    sys.exit(main())
