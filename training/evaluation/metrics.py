"""Overlap of masks: Dice and IoU.

All measures of `training.evaluation` treat empty masks alike. Two empty masks agree fully. An empty
mask against a nonempty one is a miss and gets the worst value of the measure. So every image
counts, and no miss drops out of a mean as NaN.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def dice(predicted: NDArray[np.bool_], true: NDArray[np.bool_]) -> float:
    """Return twice the shared area over the sum of areas, 0..1, of bool masks of one shape.

    Both empty: 1. One empty: 0.
    """
    total = int(predicted.sum()) + int(true.sum())
    return 2.0 * int((predicted & true).sum()) / total if total else 1.0


def iou(predicted: NDArray[np.bool_], true: NDArray[np.bool_]) -> float:
    """Return the shared area over the joint area, 0..1, of bool masks of one shape.

    Both empty: 1. One empty: 0.
    """
    joint = int((predicted | true).sum())
    return int((predicted & true).sum()) / joint if joint else 1.0
