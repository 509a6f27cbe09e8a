"""The steps around the network, taken apart from it: the same masks as in one piece."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model_store.boxes import BoxError
from model_store.geometry import InputGeometry
from model_store.grey_levels import grey_histogram
from model_store.postprocessing import MaskLogits, mask_from
from model_store.prediction import PredictionRequest
from model_store.predictor import Predictor
from model_store.preprocessing import PreparedRequest, prepare
from model_store.stages import NETWORK_STAGES
from tests.tiny_models import make_requests


@pytest.fixture(scope="module")
def predictor(tiny_artifact: Path) -> Predictor:
    return Predictor.load(tiny_artifact, "cpu")


def test_prepared_and_drawn_apart_gives_the_masks_of_predict(predictor: Predictor) -> None:
    requests = make_requests(8)
    prepared = [prepare(one, predictor.info.input_size) for one in requests]
    answers = predictor.answer_batch(prepared)
    for request, ready, answer in zip(requests, prepared, answers, strict=True):
        assert tuple(answer.stage_seconds) == NETWORK_STAGES
        for found, wanted in zip(answer.masks, predictor.predict(request).masks, strict=True):
            drawn = mask_from(found, ready.geometry, request.threshold)
            assert np.array_equal(drawn.mask, wanted.mask)
            assert (drawn.box, drawn.score) == (wanted.box, wanted.score)
            assert drawn.confidence == wanted.confidence


def test_a_known_histogram_changes_nothing() -> None:
    for request in make_requests(4):
        counts = grey_histogram(request.image)
        assert counts.sum() == request.image.size
        alone, told = prepare(request, 64), prepare(request, 64, counts)
        assert np.array_equal(alone.pixels, told.pixels)


def test_no_box_is_the_whole_image_and_the_input_is_square() -> None:
    ready = prepare(PredictionRequest(np.zeros((30, 50), np.uint16)), 64)
    assert ready.boxes == ((0.0, 0.0, 50.0, 30.0),)
    assert ready.pixels.shape == (64, 64) and ready.pixels.dtype == np.uint8
    assert ready.geometry == InputGeometry(50, 30, 64)


GREY = np.zeros((9, 9), np.uint8)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"image": np.zeros((9, 9), np.float32)}, "uint8 or uint16"),
        ({"image": np.zeros((9, 9, 3), np.uint8)}, "shape"),
        ({"image": GREY, "convention": "heart"}, "heart"),
        ({"image": GREY, "threshold": 0.0}, "threshold"),
        ({"image": GREY, "threshold": float("nan")}, "threshold"),
    ],
)
def test_what_cannot_be_asked_is_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        prepare(PredictionRequest(**arguments), 64)


def test_a_box_outside_is_refused() -> None:
    with pytest.raises(BoxError, match="9 x 9"):
        prepare(PredictionRequest(np.zeros((9, 9), np.uint8), ((0, 0, 10, 9),)), 64)


def test_an_input_of_another_network_is_refused(predictor: Predictor) -> None:
    request = make_requests(1)[0]
    with pytest.raises(ValueError, match="this model takes uint8"):
        predictor.answer_batch([prepare(request, predictor.info.input_size * 2)])
    ready = prepare(request, predictor.info.input_size)
    heart = PreparedRequest(ready.pixels, ready.geometry, ready.boxes, "heart")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="knows lung_field, whole_lung only"):
        predictor.answer_batch([heart])


def test_the_threshold_is_a_probability() -> None:
    logits = np.full((4, 4), np.log(0.3 / 0.7), np.float32)
    found, geometry = MaskLogits((0, 0, 8, 8), logits, 0.5), InputGeometry(8, 8, 4)
    assert mask_from(found, geometry, 0.29).mask.all()
    assert not mask_from(found, geometry, 0.31).mask.any()


def test_neither_step_needs_pytorch() -> None:
    modules = "model_store.postprocessing, model_store.preprocessing"
    program = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
