"""Processor time of each optional part of an answer, in milliseconds on one core.

The X-ray is synthetic. Its lungs have the shape of the mean human mask, and its logits are those of
a mask with a border a few pixels wide. `benchmarks.service.beside_checkout` compares a request
without additions with that of an older checkout.

    python -m benchmarks.service.addition_costs
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from benchmarks.processor import processor_name
from model_store.geometry import InputGeometry
from model_store.opencv import cv2
from model_store.postprocessing import MaskLogits, mask_from
from model_store.prediction import MaskPrediction
from model_store.structures import HEART
from service.imaging.image_scale import USUAL_DISPLAY
from service.imaging.islands import without_islands
from service.imaging.lung_shapes import CELLS, load_lung_shapes
from service.imaging.lung_sides import lung_sides
from service.imaging.mask_checks import check_mask
from service.imaging.mask_grid import grid_of
from service.imaging.measurements import measure_lungs
from service.imaging.png_encoding import encode_png
from service.imaging.polygons import polygons_of
from service.imaging.rendering import encode_mask_png, encode_rle
from service.imaging.segment_request import View
from service.imaging.shape_checks import check_lung_shapes
from service.imaging.uncertainty import Probabilities
from service.imaging.views import ViewedMasks, encode_view, view_of

SIDES_PX = (1024, 2048)
REPEATS = 12


def main() -> int:
    """Measure, print a table and one line of JSON."""
    table = {side: costs(side) for side in SIDES_PX}
    print(processor_name())
    print("| ms of processor time | " + " | ".join(f"{side} x {side}" for side in SIDES_PX) + " |")
    print("|---" * (1 + len(SIDES_PX)) + "|")
    for name in table[SIDES_PX[0]]:
        print(f"| {name} | " + " | ".join(f"{table[side][name]:.1f}" for side in SIDES_PX) + " |")
    print(json.dumps(table))
    return 0


def costs(side: int) -> dict[str, float]:
    """Return milliseconds by addition, the minimum of some repetitions."""
    mask, pixels = _lungs(side)
    box = (0.0, 0.0, float(side), float(side))
    found = MaskPrediction(box, mask, 0.95, 0.98)
    sides = lung_sides(mask)
    shown = ViewedMasks(pixels, [mask])
    deep = ViewedMasks(pixels.astype(np.uint16) * 257, [mask])
    mask_logits, geometry = _logits_of(mask)
    heart = mask_from(dataclasses.replace(mask_logits, structure=HEART), geometry, 0.5).mask
    steps: dict[str, Callable[[], object]] = {
        "all checks of a mask": lambda: check_mask(found, pixels, is_whole_image=True),
        "of these against human masks": lambda: check_lung_shapes(grid_of(mask), pixels),
        "lungs=each": lambda: lung_sides(mask),
        "islands=drop": lambda: without_islands(mask),
        "measurements=true": lambda: measure_lungs(0, mask, sides, pixels, USUAL_DISPLAY),
        "structure=lungs,heart: one mask more": lambda: [
            encode_mask_png(mask_from(mask_logits, geometry, 0.5).mask),
            encode_rle(mask),
        ],
        "measurements=cardiothoracic": lambda: [
            mask_from(mask_logits, geometry, 0.5),
            measure_lungs(0, mask, sides, pixels, USUAL_DISPLAY, heart),
        ],
        "shapes=png": lambda: encode_mask_png(mask),
        "shapes=rle": lambda: encode_rle(mask),
        "shapes=polygon": lambda: polygons_of(mask),
        "shapes=band": lambda: _polygons_of_band(mask_logits, geometry, mask),
        "shapes=probability": lambda: encode_png(Probabilities(mask_logits, geometry).in_bytes()),
        **{f"view={one.value}": _viewing(one, shown) for one in View},
        "view=isolated, 16 bits": _viewing(View.ISOLATED, deep),
    }
    return {name: _least_ms(step) for name, step in steps.items()}


def _polygons_of_band(
    mask_logits: MaskLogits, geometry: InputGeometry, mask: NDArray[np.bool_]
) -> object:
    band = Probabilities(mask_logits, geometry).band(mask)
    return polygons_of(band.outer), polygons_of(band.inner)


def _logits_of(mask: NDArray[np.bool_]) -> tuple[MaskLogits, InputGeometry]:
    """Return logits of 96 x 96 cells that give approximately this mask."""
    height, width = mask.shape
    cells = np.asarray(cv2.resize(mask.astype(np.float32), (96, 96), interpolation=cv2.INTER_AREA))
    logits = ((cells - 0.5) * 12).astype(np.float32)
    box = (0.0, 0.0, float(width), float(height))
    return MaskLogits(box, logits, 0.95), InputGeometry(width, height, 384)


def _viewing(view: View, shown: ViewedMasks) -> Callable[[], object]:
    return lambda: encode_view(view_of(view, shown))


def _least_ms(step: Callable[[], object]) -> float:
    step()
    times_s = []
    for _ in range(REPEATS):
        began = time.process_time()
        step()
        times_s.append(time.process_time() - began)
    return round(1000 * min(times_s), 2)


def _lungs(side: int) -> tuple[NDArray[np.bool_], NDArray[np.uint8]]:
    mean = load_lung_shapes().mean.reshape(CELLS, CELLS).astype(np.float32)
    width, height = round(0.75 * side), round(0.6 * side)
    scaled = cv2.resize(mean, (width, height), interpolation=cv2.INTER_CUBIC)
    mask = np.zeros((side, side), bool)
    left, top = (side - width) // 2, (side - height) // 2
    mask[top : top + height, left : left + width] = np.asarray(scaled) > 0.5
    grey = np.where(mask, 70.0, 180.0) + np.random.default_rng(0).normal(0, 8, mask.shape)
    return mask, np.clip(np.rint(grey), 0, 255).astype(np.uint8)


if __name__ == "__main__":
    sys.exit(main())
