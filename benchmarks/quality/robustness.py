"""The loss of Dice on X-rays that look unlike those of the training sources.

Every X-ray of a split is segmented unchanged, and after changes that other hospitals, archives and
X-ray generators make to pictures. The box is the whole image.

    python -m benchmarks.quality.robustness --data DATA --count 15
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from model_store.model_index import default_model_folder
from model_store.predictor import PredictionRequest, Predictor
from training.data.dataset import LabelledXray, load_xray, read_rows
from training.evaluation.metrics import dice

Pixels = NDArray[np.float64]
Changed = tuple[Pixels, NDArray[np.bool_]]
"""Grey values of 0..1 and the mask that belongs to them."""


def _exposed(change: Callable[[Pixels], Pixels]) -> Callable[[Pixels, NDArray[np.bool_]], Changed]:
    return lambda pixels, mask: (np.clip(change(pixels), 0, 1), mask)


def _framed(value: float) -> Callable[[Pixels, NDArray[np.bool_]], Changed]:
    def change(pixels: Pixels, mask: NDArray[np.bool_]) -> Changed:
        margin = max(pixels.shape) // 8
        return np.pad(pixels, margin, constant_values=value), np.pad(mask, margin)

    return change


def _rotated(pixels: Pixels, mask: NDArray[np.bool_]) -> Changed:
    turned = ndimage.rotate(pixels, 8, reshape=False, order=1)
    return turned, ndimage.rotate(mask.astype(np.uint8), 8, reshape=False, order=0) > 0


def _small(pixels: Pixels, mask: NDArray[np.bool_]) -> Changed:
    size = (pixels.shape[1] // 3, pixels.shape[0] // 3)
    image = Image.fromarray((pixels * 255).astype(np.uint8)).resize(size, Image.Resampling.BOX)
    small = Image.fromarray(mask).resize(size, Image.Resampling.NEAREST)
    return np.asarray(image) / 255.0, np.asarray(small)


def _noisy(pixels: Pixels) -> Pixels:
    noise: Pixels = np.random.default_rng(0).normal(0, 0.06, pixels.shape)
    return pixels + noise


CHANGES: Mapping[str, Callable[[Pixels, NDArray[np.bool_]], Changed]] = {
    "as it is": lambda pixels, mask: (pixels, mask),
    "gamma 0.5": _exposed(lambda x: x**0.5),
    "gamma 2": _exposed(lambda x: x**2),
    "a third of the contrast": _exposed(lambda x: 0.5 + (x - 0.5) / 3),
    "burnt out above 70 %": _exposed(lambda x: x / 0.7),
    "inverted": _exposed(lambda x: 1 - x),
    "noise": _exposed(_noisy),
    "blur, 3 pixels": _exposed(lambda x: ndimage.gaussian_filter(x, 3)),
    "black border": _framed(0.0),
    "white border": _framed(1.0),
    "rotated by 8 degrees": _rotated,
    "a third of the size": _small,
    "mirrored": lambda pixels, mask: (pixels[:, ::-1], mask[:, ::-1]),
}


def score(predictor: Predictor, xray: LabelledXray, name: str) -> float:
    """Dice of one X-ray after one change, stored with 12 of 16 bits."""
    pixels, mask = CHANGES[name](xray.image / 255.0, xray.mask)
    stored = np.ascontiguousarray(np.round(pixels * 4095).astype(np.uint16))
    answer = predictor.predict(PredictionRequest(stored, (), xray.convention))
    return dice(answer.masks[0].mask, mask)


def main() -> int:
    """Print a line per change and data set, and one JSON line last."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality.robustness", description=__doc__
    )
    parser.add_argument("--data", type=Path, required=True, help="data set with manifest.csv")
    parser.add_argument("--model", type=Path, default=default_model_folder())
    parser.add_argument("--split", default="val")
    parser.add_argument("--count", type=int, default=15, help="X-rays of each data set")
    arguments = parser.parse_args()
    predictor = Predictor.load(arguments.model, "cpu")
    rows = read_rows(arguments.data, arguments.split)
    sources = sorted({row.source for row in rows})
    chosen = {s: [r for r in rows if r.source == s][: arguments.count] for s in sources}
    xrays = {source: [load_xray(row) for row in chosen[source]] for source in sources}
    print("| change | " + " | ".join(sources) + " |\n|---" + "|---" * len(sources) + "|")
    table: dict[str, dict[str, float]] = {}
    for name in CHANGES:
        table[name] = {
            source: float(np.mean([score(predictor, xray, name) for xray in xrays[source]]))
            for source in sources
        }
        print(f"| {name} | " + " | ".join(f"{table[name][s]:.4f}" for s in sources) + " |")
    print(json.dumps({"model": str(predictor.info.sha256), "n": arguments.count, "dice": table}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
