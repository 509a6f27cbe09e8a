"""What crosses between serving and compute process: the same values, and no answer without them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from model_store.postprocessing import MaskLogits, NetworkAnswer
from service.compute.network_arrays import network_output, prepared_request
from service.compute.network_data import NetworkInput

BOX = (0.0, 0.0, 8.0, 8.0)


def one_bad(value: float) -> np.ndarray:
    """Logits of which one is no number."""
    logits = np.zeros((4, 4), np.float32)
    logits[2, 3] = value
    return logits


@pytest.mark.parametrize(
    ("logits", "score"),
    [
        (np.zeros((4, 8), np.float32), 0.5),
        (np.zeros(16, np.float32), 0.5),
        (np.zeros((4, 4), np.float32), float("nan")),
        (one_bad(float("nan")), 0.5),
        (one_bad(float("inf")), 0.5),
    ],
)
def test_an_answer_that_cannot_be_right_is_never_given(logits: Any, score: float) -> None:
    """Another shape, no score, no numbers: these would be an empty mask, silently."""
    with pytest.raises(ValueError, match="not"):
        network_output(NetworkAnswer((MaskLogits(BOX, logits, score),), {}))


def test_values_cross_unchanged() -> None:
    logits = np.arange(16, dtype=np.float32).reshape(4, 4) - 7.5
    output = network_output(NetworkAnswer((MaskLogits(BOX, logits, 0.25),), {"encode_image": 1.0}))
    (found,) = output.masks
    assert (found.box, found.side, found.score) == (BOX, 4, 0.25)
    assert np.array_equal(np.frombuffer(found.logits, np.float32).reshape(4, 4), logits)
    pixels = bytes(range(16))
    prepared = prepared_request(NetworkInput(pixels, 4, 8, 6, (BOX,), "whole_lung"))
    assert prepared.pixels.tobytes() == pixels and prepared.pixels.flags["W"]
    geometry = prepared.geometry
    assert (geometry.width, geometry.height, geometry.input_size) == (8, 6, 4)
    assert (prepared.boxes, prepared.convention) == ((BOX,), "whole_lung")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_kind_of_picture_that_is_no_number_is_never_given(value: float) -> None:
    with pytest.raises(ValueError, match="not numbers"):
        network_output(NetworkAnswer((), {}, {"inverted": value}))
    assert network_output(NetworkAnswer((), {}, {"inverted": 0.25})).quality == {"inverted": 0.25}
    assert network_output(NetworkAnswer((), {})).quality is None
