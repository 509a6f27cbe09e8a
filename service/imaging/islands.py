"""Remove the small pieces of a mask, found by its contours.

Finding the contours of a large mask is much faster than labelling its connected pieces.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from model_store.opencv import cv2

SMALLEST_ISLAND_SHARE = 0.02
"""A piece below this share of the mask is an island."""


def without_islands(mask: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], int]:
    """Return a mask without its islands, and how many pixels they had.

    Args:
        mask: (H, W) bool; not changed.
    """
    pixels = mask.view(np.uint8).copy()
    total = int(np.count_nonzero(mask))
    outlines, _ = cv2.findContours(pixels, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    small = [line for line in outlines if _area_px(line) < SMALLEST_ISLAND_SHARE * total]
    if not small or len(small) == len(outlines):
        return mask, 0
    cv2.drawContours(pixels, small, -1, 0, thickness=cv2.FILLED)
    kept = pixels.view(np.bool_)
    return kept, total - int(np.count_nonzero(kept))


def _area_px(outline: NDArray[np.generic]) -> float:
    """Return the pixels inside and on an outline through pixel centres, by Pick's theorem."""
    return float(cv2.contourArea(outline)) + len(outline) / 2 + 1  # type: ignore[arg-type]
