"""The places in the chest, and the distances from the outline, where two models' masks differ."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from model_store.geometry import Box
from training.evaluation.surface import REFERENCE_SIDE

FRAME_SIDE = 96
"""Cells of the chest frame along a side."""

FRAME_MARGIN = 0.1
"""Margin of the frame around the tight box of both lungs, as a share of its sides."""

DISTANCE_EDGES = np.arange(-30, 31, 2, dtype=np.float64)
"""Bins of the distance to the outline, in pixels at 512; negative inside the mask."""


def in_chest_frame(values: NDArray[np.bool_], box: Box) -> NDArray[np.float32]:
    """Resample a picture (H, W) so that a box has a fixed position; outside counts as 0.

    Returns:
        Share of each cell, float32 (96, 96).
    """
    width, height = box[2] - box[0], box[3] - box[1]
    margin_x, margin_y = width * FRAME_MARGIN, height * FRAME_MARGIN
    pad = int(np.ceil(max(margin_x, margin_y))) + 1
    padded = Image.fromarray(np.pad(values, pad).astype(np.float32))
    region = (
        box[0] - margin_x + pad, box[1] - margin_y + pad,
        box[2] + margin_x + pad, box[3] + margin_y + pad,
    )  # fmt: skip
    return np.asarray(padded.resize((FRAME_SIDE, FRAME_SIDE), Image.Resampling.BOX, region))


@dataclass
class MaskDifference:
    """Sums over X-rays.

    Attributes:
        count: X-rays seen.
        lungs: Sum of the true masks in the chest frame, (96, 96).
        differing: Sum of the pixels on which the two models differ, (96, 96).
        pixels: Pixels in each bin of the distance to the second model's outline.
        models_differ: Number of them on which the two models disagree.
        truth_differs: Number of them on which the second model and the annotator disagree.
    """

    count: int = 0
    lungs: NDArray[np.float64] = field(default_factory=lambda: np.zeros((FRAME_SIDE,) * 2))
    differing: NDArray[np.float64] = field(default_factory=lambda: np.zeros((FRAME_SIDE,) * 2))
    pixels: NDArray[np.int64] = field(default_factory=lambda: _bins())
    models_differ: NDArray[np.int64] = field(default_factory=lambda: _bins())
    truth_differs: NDArray[np.int64] = field(default_factory=lambda: _bins())

    def add(
        self, first: NDArray[np.bool_], second: NDArray[np.bool_], true: NDArray[np.bool_], box: Box
    ) -> None:
        """Add one X-ray.

        Args:
            first: Mask of the evaluated model, (H, W).
            second: Mask of the other model, (H, W).
            true: The annotator's mask, (H, W).
            box: Tight box of the true lungs: the chest frame.
        """
        self.count += 1
        differing = first ^ second
        self.lungs += in_chest_frame(true, box)
        self.differing += in_chest_frame(differing, box)
        if second.any() and not second.all():
            pixel = REFERENCE_SIDE / max(second.shape)
            outside = ndimage.distance_transform_edt(~second)
            inside = ndimage.distance_transform_edt(second)
            distance = (outside - inside) * pixel
            self.pixels += np.histogram(distance, DISTANCE_EDGES)[0]
            self.models_differ += np.histogram(distance[differing], DISTANCE_EDGES)[0]
            self.truth_differs += np.histogram(distance[second ^ true], DISTANCE_EDGES)[0]


def _bins() -> NDArray[np.int64]:
    return np.zeros(len(DISTANCE_EDGES) - 1, dtype=np.int64)
