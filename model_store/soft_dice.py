"""The confidence of a mask: its expected Dice by the model's own probabilities.

Soft Dice confidence is the overlap of the mask with the probabilities that it comes from. A clear
border is a step from 0 to 1 and does not lower it. Where the model is unsure, probabilities are in
between, and every such pixel lowers the confidence. Source: Borges, Pacheco and Silva, "Selective
prediction for semantic segmentation using post-hoc confidence estimation and its performance under
distribution shift" (arXiv 2402.10665).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from model_store.geometry import InputGeometry


def soft_dice_confidence(logits: NDArray[np.float32], geometry: InputGeometry) -> float:
    """Return 2 * sum(p over the mask) / (sum(p) + pixels of the mask), 0..1.

    The mask is where p > 1/2, whatever threshold a caller requests, because confidence belongs to
    the model and not to the threshold. It counts cells of the logits, without padding.

    Args:
        logits: Mask logits over the whole padded input, (M, M).
        geometry: How the X-ray lies in the input.

    Returns:
        0 if no cell is in the mask; NaN if a logit is NaN.
    """
    cells = logits.shape[0] / geometry.input_size
    height = math.ceil(geometry.resized_height * cells)
    width = math.ceil(geometry.resized_width * cells)
    inside = logits[:height, :width].astype(np.float64)
    probabilities = 0.5 + 0.5 * np.tanh(0.5 * inside)  # a sigmoid that cannot overflow
    in_mask = inside > 0
    overlap = float(probabilities[in_mask].sum())
    total = float(probabilities.sum()) + int(np.count_nonzero(in_mask))
    return 2 * overlap / total if total != 0 else 0.0
