"""Make the picture in the README: an X-ray with its overlay beside it.

python -m benchmarks.quality.answer_picture --out docs/pictures/answer.jpg
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.quality.box_pictures import beside_each_other
from model_store.model_index import default_model_folder
from model_store.predictor import PredictionRequest, Predictor
from service.imaging.rendering import draw_overlay

PHANTOM = Path(__file__).parents[2] / "examples" / "phantom.png"
SIDE_PX = 440
JPEG_QUALITY = 85


def main(arguments: Sequence[str] | None = None) -> int:
    """Segment the phantom of the repository and write the picture."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality.answer_picture")
    parser.add_argument("--out", type=Path, required=True, help="JPEG to write")
    parser.add_argument("--model", type=Path, default=default_model_folder())
    options = parser.parse_args(arguments)
    answer_picture(Predictor.load(options.model, "cpu")).save(options.out, quality=JPEG_QUALITY)
    return 0


def answer_picture(predictor: Predictor) -> Image.Image:
    """Return the phantom and its overlay side by side, each `SIDE_PX` wide."""
    with Image.open(PHANTOM) as opened:
        xray = np.asarray(opened.convert("L"))
    height, width = xray.shape
    whole_image = (0.0, 0.0, float(width), float(height))
    prediction = predictor.predict(PredictionRequest(xray, (whole_image,)))
    overlay = draw_overlay(xray, [prediction.masks[0].mask], [])
    panels = [np.repeat(xray[:, :, None], 3, axis=2), overlay]
    size = (SIDE_PX, round(SIDE_PX * height / width))
    scaled = [np.asarray(Image.fromarray(panel).resize(size)) for panel in panels]
    return Image.fromarray(beside_each_other(scaled))


if __name__ == "__main__":
    sys.exit(main())
