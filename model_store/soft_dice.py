"""How sure a model is of a mask: the Dice that its own probabilities expect of it.

Soft Dice confidence is the overlap of the mask with the probabilities that it was cut from. A
clear border is a step from 0 to 1 and costs nothing. Where the model is unsure, probabilities lie
in between, and every such pixel lowers the confidence. Source: Borges, Pacheco and
Silva, "Selective prediction for semantic segmentation using post-hoc confidence estimation and its
performance under distribution shift" (arXiv 2402.10665).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from model_store.geometry import InputGeometry


def soft_dice_confidence(logits: NDArray[np.float32], geometry: InputGeometry) -> float:
    """Return 2 * sum(p over the mask) / (sum(p) + pixels of the mask), 0..1.

    The mask is where p > 1/2, whatever threshold a caller asks for: the model is as sure of what it
    sees as it is. Counted in the cells of the logits, those of padding left out.

    Args:
        logits: Mask logits over the whole padded input, (M, M).
        geometry: How the X-ray lies in the input.

    Returns:
        0 where no cell is in the mask; not a number where a logit is none.
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
