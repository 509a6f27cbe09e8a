"""What the network is handed of an X-ray, and how its answer becomes masks.

The steps before and after the network, in NumPy and Pillow alone: a process that hands X-rays to
another one takes them itself, without PyTorch and while the network works on the X-ray before. What
crosses between the two is then the network's input and mask logits, in place of the X-ray and
masks of its size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model_store.boxes import Box
from model_store.conventions import Convention
from model_store.geometry import InputGeometry, window_to_uint8
from model_store.mask_resampling import logits_above
from model_store.prediction import MaskPrediction, PredictionRequest
from model_store.soft_dice import soft_dice_confidence
from model_store.structures import LUNGS, Structure


@dataclass(frozen=True)
class PreparedRequest:
    """An X-ray at the size of the network's input, and what is asked of it.

    Attributes:
        pixels: Grey values, windowed, scaled and padded, uint8 (S, S).
        geometry: How the X-ray lies in them.
        boxes: Prompt boxes in pixels of the X-ray, at least one.
        convention: Which lungs the masks follow.
        structures: What the masks show; each box has one mask of each, in this order.
    """

    pixels: NDArray[np.uint8]
    geometry: InputGeometry
    boxes: tuple[Box, ...]
    convention: Convention
    structures: tuple[Structure, ...] = (LUNGS,)


@dataclass(frozen=True)
class MaskLogits:
    """What the network says about one structure in one box.

    Attributes:
        box: The box that was asked, in pixels of the X-ray.
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
    """What the network says about one X-ray, by boxes and then structures, and how long it took.

    ``quality`` as in `model_store.prediction.Prediction`.
    """

    masks: tuple[MaskLogits, ...]
    stage_seconds: Mapping[str, float]
    quality: Mapping[str, float] | None = None


def prepare(
    request: PredictionRequest, input_size: int, histogram: NDArray[np.int64] | None = None
) -> PreparedRequest:
    """Bring an X-ray into the form that a network of this input size takes.

    Args:
        request: The X-ray and what is asked of it; no box stands for the whole image.
        input_size: Side of the network's input, in pixels.
        histogram: ``grey_histogram`` of the X-ray, where that is known already.

    Raises:
        ValueError: Wrong image type.
    """
    windowed = window_to_uint8(request.image, histogram)
    height, width = windowed.shape
    geometry = InputGeometry(width, height, input_size)
    whole: Box = (0.0, 0.0, float(width), float(height))
    return PreparedRequest(
        geometry.image_to_input(windowed), geometry, request.boxes or (whole,), request.convention,
        (request.structure, *request.also),
    )  # fmt: skip


def mask_from(found: MaskLogits, geometry: InputGeometry, threshold: float) -> MaskPrediction:
    """Draw a mask at the X-ray's own size.

    Args:
        found: What the network says about a box.
        geometry: How the X-ray lay in the input.
        threshold: Probability from which on a pixel belongs to the mask, 0 < threshold < 1.
    """
    mask = logits_above(found.logits, geometry, logit_of(threshold))
    confidence = soft_dice_confidence(found.logits, geometry)
    return MaskPrediction.of(found.box, mask, found.score, confidence, found.structure)


def logit_of(threshold: float) -> float:
    """Return the logit of a probability.

    Raises:
        ValueError: It does not lie between 0 and 1.
    """
    if not 0.0 < threshold < 1.0:
        raise ValueError(f"threshold is {threshold}; it must lie between 0 and 1")
    return math.log(threshold / (1.0 - threshold))
