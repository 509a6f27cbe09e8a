"""Requests to a stored model and its answers, as plain data.

The module is separate, so that a process that only forwards requests needs no PyTorch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model_store.boxes import Box, validate_box
from model_store.conventions import DEFAULT_CONVENTION, Convention
from model_store.model_info import ModelInfo as ModelInfo
from model_store.structures import LUNGS, Structure, mask_token


@dataclass(frozen=True)
class PredictionRequest:
    """One X-ray with its boxes and options, validated together.

    Attributes:
        image: Grey values, brighter = denser, uint8 or uint16 (H, W).
        boxes: Prompt boxes in pixels of ``image``; none means the whole image.
        convention: Which structure the mask follows.
        threshold: Least probability of a pixel of the mask, 0 < threshold < 1.
        structure: What the masks show: the lungs, by the convention, or another structure.
        also: Further structures, each with a mask of its own from the same pass of the network.

    Raises:
        BoxError: A box does not lie in the image.
        ValueError: Unknown convention or structure, threshold outside (0, 1).
    """

    image: NDArray[np.uint8] | NDArray[np.uint16]
    boxes: tuple[Box, ...] = ()
    convention: Convention = DEFAULT_CONVENTION
    threshold: float = 0.5
    structure: Structure = LUNGS
    also: tuple[Structure, ...] = ()

    def __post_init__(self) -> None:
        """Check the boxes, the convention and the threshold."""
        height, width = self.image.shape[:2]
        boxes = tuple(validate_box(box, width, height) for box in self.boxes)
        object.__setattr__(self, "boxes", boxes)
        for structure in (self.structure, *self.also):
            mask_token(structure, self.convention)
        if not 0.0 < self.threshold < 1.0:
            raise ValueError(f"threshold is {self.threshold}; it must lie between 0 and 1")


@dataclass(frozen=True)
class MaskPrediction:
    """One mask.

    Attributes:
        box: The requested box.
        mask: bool (H, W).
        score: Predicted IoU of the mask with the truth, 0..1; 0 where the mask is empty.
        confidence: Expected Dice by the mask's own probabilities, 0..1
            (`soft_dice.soft_dice_confidence`); 0 where the mask is empty.
        structure: What it shows.
    """

    box: Box
    mask: NDArray[np.bool_]
    score: float
    confidence: float
    structure: Structure = LUNGS

    @classmethod
    def of(
        cls,
        box: Box,
        mask: NDArray[np.bool_],
        score: float,
        confidence: float,
        structure: Structure = LUNGS,
    ) -> MaskPrediction:
        """Return a mask with its score and confidence, which are 0 for an empty mask."""
        if not mask.any():
            score = confidence = 0.0
        return cls(box, mask, score, confidence, structure)


@dataclass(frozen=True)
class Prediction:
    """The masks of one X-ray, by boxes and then structures, and the seconds of each stage.

    ``quality`` has the probability of each label of `model_store.quality_head`; None without such a
    head.
    """

    masks: tuple[MaskPrediction, ...]
    stage_seconds: Mapping[str, float]
    quality: Mapping[str, float] | None = None
