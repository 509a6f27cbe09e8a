"""The certainty of each part of a mask: its probabilities, and a band around the outline.

The band lies between the contours of probability 0.25 and 0.75. Where it is wide, the model is
unsure of the border; where it is narrow, the model is sure.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model_store.geometry import InputGeometry
from model_store.mask_resampling import logits_at_pixels
from model_store.opencv import cv2
from model_store.postprocessing import MaskLogits, logit_of
from service.imaging.distances import distances_within, squares_of

OUTER_PROBABILITY, INNER_PROBABILITY = 0.25, 0.75
_NEIGHBOURS = np.ones((3, 3), np.uint8)
_LARGEST_LOGIT = 30.0

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Band:
    """The band around one mask.

    Attributes:
        outer: where the probability is above 0.25, (H, W) bool.
        inner: where it is above 0.75, likewise.
        mean_px: mean width of the band along the outline, in pixels; None without an inner part.
        p95_px: its 95th percentile, likewise.
    """

    outer: Mask
    inner: Mask
    mean_px: float | None
    p95_px: float | None


class Probabilities:
    """The probabilities of one mask at the pixels of the X-ray."""

    def __init__(self, mask_logits: MaskLogits, geometry: InputGeometry) -> None:
        """Resample the network's output."""
        self._logits = logits_at_pixels(
            np.asarray(mask_logits.logits, np.float32), geometry
        )  # (H, W)

    def in_bytes(self) -> NDArray[np.uint8]:
        """Return the probabilities as 0 to 255, rounded, (H, W)."""
        logits = np.clip(self._logits, -_LARGEST_LOGIT, _LARGEST_LOGIT)
        np.negative(logits, out=logits)
        np.exp(logits, out=logits)
        rounded: NDArray[np.uint8] = np.rint(np.float32(255) / (1 + logits)).astype(np.uint8)
        return rounded

    def band(self, mask: Mask) -> Band:
        """Return the band around a mask.

        Its width at a pixel of the outline is the sum of two distances minus one pixel: to the
        nearest pixel outside the outer contour, and to the nearest pixel inside the inner contour.

        Args:
            mask: the mask whose outline is followed, (H, W) bool.
        """
        outer, inner = (
            self._logits > logit_of(share) for share in (OUTER_PROBABILITY, INNER_PROBABILITY)
        )
        if not inner.any() or not mask.any():
            return Band(outer, inner, None, None)
        window = _window_of(outer | mask)
        outline = (mask & ~_eroded(mask))[window]
        within = np.pad(outer[window], 1)  # beyond the window is outside
        outwards = squares_of(distances_within(within)[1:-1, 1:-1][outline])
        inwards = squares_of(distances_within(np.ascontiguousarray(~inner[window]))[outline])
        widths = np.maximum(np.sqrt(outwards) + np.sqrt(inwards) - 1, 0)
        return Band(outer, inner, float(widths.mean()), float(np.percentile(widths, 95)))


def _window_of(mask: Mask) -> tuple[slice, slice]:
    """Return the rows and columns of a mask's bounding box."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _eroded(mask: Mask) -> Mask:
    smaller = cv2.erode(
        mask.view(np.uint8), _NEIGHBOURS, borderType=cv2.BORDER_CONSTANT, borderValue=0
    )
    return np.asarray(smaller).astype(bool)
