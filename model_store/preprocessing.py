"""Preprocessing: an X-ray in the form that the network takes.

It needs NumPy and Pillow alone, so a process without PyTorch preprocesses one X-ray while another
process runs the network on the one before. Only the network's input goes from one to
the other, not the X-ray itself.
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
    """An X-ray at the size of the network's input, and the request about it.

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
    """Bring an X-ray into the form that a network of this input size takes.

    Args:
        request: The X-ray and its boxes; no box stands for the whole image.
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
