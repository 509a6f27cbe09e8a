"""Postprocessing: turn the network's mask logits into masks at the X-ray's own size.

Like preprocessing, it needs no PyTorch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model_store.boxes import Box
from model_store.geometry import InputGeometry
from model_store.mask_resampling import logits_above
from model_store.prediction import MaskPrediction
from model_store.soft_dice import soft_dice_confidence
from model_store.structures import LUNGS, Structure


@dataclass(frozen=True)
class MaskLogits:
    """The network's output for one structure in one box.

    Attributes:
        box: The requested box, in pixels of the X-ray.
        logits: Mask logits over the whole padded input, float32 (M, M).
        score: Predicted IoU of the mask with the truth, 0..1.
        structure: What the mask shows.
    """

    box: Box
    logits: NDArray[np.float32]
    score: float
    structure: Structure = LUNGS


@dataclass(frozen=True)
class NetworkAnswer:
    """The network's output for one X-ray, by boxes and then structures, and its times.

    ``quality`` has the format of `model_store.prediction.Prediction`.
    """

    masks: tuple[MaskLogits, ...]
    stage_seconds: Mapping[str, float]
    quality: Mapping[str, float] | None = None


def mask_from(found: MaskLogits, geometry: InputGeometry, threshold: float) -> MaskPrediction:
    """Return a mask at the X-ray's own size.

    Args:
        found: The network's output for a box.
        geometry: How the X-ray lay in the input.
        threshold: Least probability of a pixel of the mask, 0 < threshold < 1.
    """
    mask = logits_above(found.logits, geometry, logit_of(threshold))
    confidence = soft_dice_confidence(found.logits, geometry)
    return MaskPrediction.of(found.box, mask, found.score, confidence, found.structure)


def logit_of(threshold: float) -> float:
    """Return the logit of a probability.

    Raises:
        ValueError: It is not between 0 and 1.
    """
    if not 0.0 < threshold < 1.0:
        raise ValueError(f"threshold is {threshold}; it must lie between 0 and 1")
    return math.log(threshold / (1.0 - threshold))
