"""Distances of pixels to the nearest pixel outside a region, equal on every processor.

OpenCV's precise transform gives roots whose last digit depends on the processor and on the
alignment of memory. Their squares are integers, so distances are compared and measured by these.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from model_store.opencv import cv2


def distances_within(region: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return the distance of each pixel of a region from the nearest pixel outside it.

    Args:
        region: (H, W) bool, C-contiguous.

    Returns:
        Euclidean distances in pixels, (H, W); 0 outside the region.
    """
    away = cv2.distanceTransform(region.view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(away, np.float32)


def squares_of(distances: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the squares of distances between pixels, of the same shape.

    They are exact up to 700 pixels; beyond, OpenCV itself can miss the nearest pixel by one.
    """
    return np.rint(np.square(distances.astype(np.float64))).astype(np.int64)
