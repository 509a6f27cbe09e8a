import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.spatial.distance import dice as scipy_dice_distance
from scipy.spatial.distance import jaccard as scipy_jaccard_distance

from training.evaluation.metrics import dice, iou

MASKS = hnp.arrays(bool, (6, 7))


@given(MASKS, MASKS)
def test_overlap_equals_scipy(first: np.ndarray, second: np.ndarray) -> None:
    if first.any() or second.any():
        assert dice(first, second) == pytest.approx(
            1 - scipy_dice_distance(first.ravel(), second.ravel())
        )
        assert iou(first, second) == pytest.approx(
            1 - scipy_jaccard_distance(first.ravel(), second.ravel())
        )


def test_empty_masks() -> None:
    empty, full = np.zeros((3, 3), bool), np.ones((3, 3), bool)
    assert dice(empty, empty) == iou(empty, empty) == 1.0
    assert dice(empty, full) == iou(empty, full) == dice(full, empty) == 0.0


@given(MASKS, MASKS, st.booleans())
def test_dice_and_iou_rank_alike(first: np.ndarray, second: np.ndarray, _: bool) -> None:
    d, i = dice(first, second), iou(first, second)
    assert d == pytest.approx(2 * i / (1 + i))
