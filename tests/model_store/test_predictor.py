"""Predictions: stateless, thread-safe, the same alone and in company."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from model_store.geometry import BoxError
from model_store.predictor import PredictionRequest, Predictor
from model_store.stages import PREDICTION_STAGES
from tests.tiny_models import make_requests


@pytest.fixture(scope="module")
def predictor(tiny_artifact: Path) -> Predictor:
    return Predictor.load(tiny_artifact, "cpu")


def test_masks_have_the_size_of_the_image(predictor: Predictor) -> None:
    request = PredictionRequest(np.zeros((50, 70), np.uint8), ((1, 1, 60, 40), (0, 0, 70, 50)))
    prediction = predictor.predict(request)
    assert [m.box for m in prediction.masks] == [(1, 1, 60, 40), (0, 0, 70, 50)]
    assert all(m.mask.shape == (50, 70) and m.mask.dtype == bool for m in prediction.masks)
    assert all(0 <= m.score <= 1 for m in prediction.masks)
    assert tuple(prediction.stage_seconds) == PREDICTION_STAGES
    assert all(seconds > 0 for seconds in prediction.stage_seconds.values())


def test_no_box_means_the_whole_image(predictor: Predictor) -> None:
    image = make_requests(1)[0].image
    height, width = image.shape
    alone = predictor.predict(PredictionRequest(image))
    asked = predictor.predict(PredictionRequest(image, ((0, 0, float(width), float(height)),)))
    assert alone.masks[0].box == asked.masks[0].box
    assert np.array_equal(alone.masks[0].mask, asked.masks[0].mask)


def test_neighbours_change_nothing(predictor: Predictor) -> None:
    requests = make_requests(8)
    alone = [predictor.predict(request) for request in requests]
    together = predictor.predict_batch(requests[::-1])[::-1]
    for one, other in zip(alone, together, strict=True):
        for mask, same in zip(one.masks, other.masks, strict=True):
            assert mask.score == same.score
            assert np.array_equal(mask.mask, same.mask)


def test_other_boxes_of_a_request_change_nothing(predictor: Predictor) -> None:
    image = make_requests(1)[0].image
    first, second = (0.0, 0.0, 30.0, 30.0), (5.0, 5.0, 35.0, 38.0)
    together = predictor.predict(PredictionRequest(image, (first, second))).masks
    alone = predictor.predict(PredictionRequest(image, (second,))).masks
    assert np.array_equal(together[1].mask, alone[0].mask)
    assert together[1].score == alone[0].score


def test_threads_never_see_each_others_image(predictor: Predictor) -> None:
    """SAM predictors with shared state returned another image's mask under load."""
    requests = make_requests(12)
    wanted = [predictor.predict(request) for request in requests]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            got = list(pool.map(predictor.predict, requests))
            for one, other in zip(wanted, got, strict=True):
                assert np.array_equal(one.masks[0].mask, other.masks[0].mask)


def test_conventions_draw_different_masks(predictor: Predictor) -> None:
    image = make_requests(1)[0].image
    masks = [
        predictor.predict(PredictionRequest(image, (), c)).masks[0].mask
        for c in ("lung_field", "whole_lung")
    ]
    assert not np.array_equal(masks[0], masks[1])


def test_a_higher_threshold_never_adds_pixels(predictor: Predictor) -> None:
    image = make_requests(1)[0].image
    masks = [
        predictor.predict(PredictionRequest(image, threshold=t)).masks[0].mask
        for t in (0.1, 0.5, 0.9)
    ]
    assert not (masks[1] & ~masks[0]).any() and not (masks[2] & ~masks[1]).any()


@pytest.mark.parametrize("threshold", [0.0, 1.0, float("nan")])
def test_a_threshold_outside_is_refused(predictor: Predictor, threshold: float) -> None:
    with pytest.raises(ValueError, match="threshold"):
        predictor.predict(PredictionRequest(np.zeros((40, 40), np.uint8), threshold=threshold))


def test_bad_boxes_and_conventions_are_refused(predictor: Predictor) -> None:
    image = np.zeros((40, 40), np.uint8)
    with pytest.raises(BoxError, match="40 x 40"):
        predictor.predict(PredictionRequest(image, ((0, 0, 41, 40),)))
    with pytest.raises(ValueError, match="lung_field, whole_lung"):
        predictor.predict(PredictionRequest(image, convention="heart"))  # type: ignore[arg-type]


def test_an_absent_device_is_refused(tiny_artifact: Path) -> None:
    with pytest.raises(ValueError, match="auto, cpu or cuda"):
        Predictor.load(tiny_artifact, "tpu")
