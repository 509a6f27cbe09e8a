"""Make the picture of boxes in the wrong order for the documentation, on a phantom.

A box is x0, y0, x1, y1. Sent as y0, x0, y1, x1, or as x, y, width and height, the four numbers are
often still a valid box, and no service can tell. The picture shows the correct box and these two,
each with the model's mask and the service's warnings.

    python -m benchmarks.quality.box_pictures --out docs/boxes.png
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model_store.boxes import Box
from model_store.model_index import default_model_folder
from model_store.predictor import PredictionRequest, Predictor
from service.imaging.answer_checks import check_answer
from service.imaging.legend import with_legend
from service.imaging.png_encoding import encode_png
from service.imaging.rendering import draw_overlay
from service.imaging.warning_advice import gravest
from training.phantom import Phantom, draw_phantom

PHANTOM_SEED, SIZE = 9, (560, 440)
_GAP_PX = 12
_MARGIN_LINES = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Segment with each box, print the warnings, write the picture."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality.box_pictures")
    parser.add_argument("--out", type=Path, required=True, help="PNG to write")
    parser.add_argument("--model", type=Path, default=default_model_folder())
    options = parser.parse_args(arguments)
    phantom = draw_phantom(PHANTOM_SEED, SIZE)
    predictor = Predictor.load(options.model, "cpu")
    panels = []
    for name, box in boxes_of(phantom).items():
        panel, said = panel_of(predictor, phantom.image, name, box)
        panels.append(panel)
        print(f"| {name} | {', '.join(f'{value:g}' for value in box)} | {said} |")
    options.out.write_bytes(encode_png(beside_each_other(panels)))
    return 0


def boxes_of(phantom: Phantom) -> Mapping[str, Box]:
    """Return the box of both lungs, and its numbers in two other orders."""
    rows, columns = np.nonzero(phantom.lung_field)
    x0, x1 = float(columns.min()), float(columns.max() + 1)
    y0, y1 = float(rows.min()), float(rows.max() + 1)
    return {
        "x0,y0,x1,y1, as meant": (x0, y0, x1, y1),
        "y0,x0,y1,x1": (y0, x0, y1, x1),
        "x,y,width,height": (x0, y0, x1 - x0, y1 - y0),
    }


def panel_of(
    predictor: Predictor, image: NDArray[np.uint8], name: str, box: Box
) -> tuple[NDArray[np.uint8], str]:
    """Return the overlay of one box with a line of text below, and the warnings."""
    prediction = predictor.predict(PredictionRequest(image, (box,)))
    kind = predictor.info.manifest.kind_of(prediction.quality)
    remarks = check_answer(prediction.masks, image, kind).every
    codes = ", ".join(dict.fromkeys(str(one.code) for one in remarks)) or "no warning"
    severity = gravest(one.code for one in remarks)
    said = codes if severity is None else f"{codes} ({severity})"
    overlay = draw_overlay(image, [prediction.masks[0].mask], [box])
    return with_legend(overlay, [name, said]), said


def beside_each_other(panels: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Return pictures (H, W, 3) side by side, with gaps, on white."""
    height = max(len(panel) for panel in panels)
    padded = [
        np.pad(panel, ((0, height - len(panel)), (0, 0), (0, 0)), constant_values=0)
        for panel in panels
    ]
    gap = np.full((height, _GAP_PX, 3), 255, np.uint8)
    joined = [part for panel in padded for part in (panel, gap)][:-1]
    return np.concatenate(joined, axis=1)


if __name__ == "__main__":
    sys.exit(main())
