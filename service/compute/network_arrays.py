"""Conversion between bytes of messages and the arrays of models."""

from __future__ import annotations

import math

import numpy as np

from model_store.geometry import InputGeometry
from model_store.postprocessing import MaskLogits, NetworkAnswer
from model_store.preprocessing import PreparedRequest
from service.compute.network_data import BoxLogits, NetworkInput, NetworkOutput


def prepared_request(given: NetworkInput) -> PreparedRequest:
    """Return a model's input; its array is writable, as the predictor requires."""
    pixels = np.frombuffer(bytearray(given.pixels), np.uint8).reshape(given.side, given.side)
    geometry = InputGeometry(given.width, given.height, given.side)
    return PreparedRequest(pixels, geometry, given.boxes, given.convention, given.structures)


def network_output(answer: NetworkAnswer) -> NetworkOutput:
    """Return a model's output as bytes.

    Raises:
        ValueError: logits are not square or have NaN, which would silently be below any threshold,
            an empty mask; or probabilities of the quality head have NaN.
    """
    quality = None if answer.quality is None else dict(answer.quality)
    if quality is not None and not all(map(math.isfinite, quality.values())):
        raise ValueError("the model gave probabilities of the picture's kind that are not numbers")
    return NetworkOutput(tuple(map(_box_logits, answer.masks)), dict(answer.stage_seconds), quality)


def _box_logits(found: MaskLogits) -> BoxLogits:
    logits = np.ascontiguousarray(found.logits, np.float32)
    if logits.ndim != 2 or logits.shape[0] != logits.shape[1]:
        raise ValueError("the model gave mask logits that are not square")
    if not (math.isfinite(found.score) and np.isfinite(logits).all()):
        raise ValueError("the model gave a score or logits that are not numbers")
    return BoxLogits(found.box, logits.tobytes(), logits.shape[0], found.score, found.structure)
