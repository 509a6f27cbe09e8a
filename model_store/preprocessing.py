"""Preprocessing: turn an X-ray into the network's input.

It needs only NumPy and Pillow. So a process without PyTorch can preprocess one X-ray while another
process runs the network on the previous one. Only the network's input passes between them, not the
X-ray itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model_store.boxes import Box
from model_store.conventions import Convention
from model_store.geometry import InputGeometry, window_to_uint8
from model_store.prediction import PredictionRequest
from model_store.structures import LUNGS, Structure


@dataclass(frozen=True)
class PreparedRequest:
    """An X-ray at the size of the network's input, with its boxes and options.

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


def prepare(
    request: PredictionRequest, input_size: int, histogram: NDArray[np.int64] | None = None
) -> PreparedRequest:
    """Prepare an X-ray for a network of this input size.

    Args:
        request: The X-ray and its boxes; without a box the whole image is used.
        input_size: Side of the network's input, in pixels.
        histogram: ``grey_histogram`` of the X-ray, if it is already known.

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
