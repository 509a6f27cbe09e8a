"""Overlap of masks. Empty masks: both empty agree fully (1), one empty not at all (0)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def dice(predicted: NDArray[np.bool_], true: NDArray[np.bool_]) -> float:
    """Twice the shared area over the sum of areas, 0..1, of bool masks of one shape."""
    total = int(predicted.sum()) + int(true.sum())
    return 2.0 * int((predicted & true).sum()) / total if total else 1.0


def iou(predicted: NDArray[np.bool_], true: NDArray[np.bool_]) -> float:
    """Shared area over joint area, 0..1, of bool masks of one shape."""
    joint = int((predicted | true).sum())
    return int((predicted & true).sum()) / joint if joint else 1.0
