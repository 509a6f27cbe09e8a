"""Soft Dice confidence against its formula and what it stands for, and on plain masks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_store.geometry import InputGeometry
from model_store.soft_dice import soft_dice_confidence

SQUARE = InputGeometry(80, 80, 64)


@given(seed=st.integers(0, 2**32 - 1), width=st.integers(8, 300), height=st.integers(8, 300))
def test_it_is_the_formula_over_the_cells_of_the_image(seed: int, width: int, height: int) -> None:
    geometry = InputGeometry(width, height, 64)
    logits = np.random.default_rng(seed).normal(0, 4, (16, 16)).astype(np.float32)
    overlap, total = 0.0, 0.0
    for row in range(math.ceil(geometry.resized_height / 4)):
        for column in range(math.ceil(geometry.resized_width / 4)):
            probability = 1 / (1 + math.exp(-float(logits[row, column])))
            total += probability + (probability > 0.5)
            overlap += probability if probability > 0.5 else 0.0
    found = soft_dice_confidence(logits, geometry)
    assert found == pytest.approx(2 * overlap / total, rel=1e-12)
    assert 0.0 <= found <= 1.0


def test_it_is_the_dice_that_masks_drawn_by_the_probabilities_have() -> None:
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 3, (64, 64)).astype(np.float32)
    probabilities = 1 / (1 + np.exp(-logits.astype(np.float64)))
    mask = probabilities > 0.5
    drawn = rng.random((200, 64, 64)) < probabilities
    dice = 2 * (drawn & mask).sum((1, 2)) / (drawn.sum((1, 2)) + mask.sum())
    assert soft_dice_confidence(logits, SQUARE) == pytest.approx(dice.mean(), abs=0.002)


def test_a_sharp_mask_is_sure_and_a_soft_one_is_not() -> None:
    logits = np.full((16, 16), -50.0, np.float32)
    logits[4:12, 4:12] = 50.0
    assert soft_dice_confidence(logits, SQUARE) == pytest.approx(1.0)
    logits[4:12, 4:8] = 0.01
    assert soft_dice_confidence(logits, SQUARE) == pytest.approx(2 * 48 / (48 + 64), abs=0.01)


def test_what_lies_in_the_padding_does_not_count() -> None:
    wide = InputGeometry(64, 32, 64)
    logits = np.full((16, 16), -50.0, np.float32)
    logits[:8] = 50.0
    logits[8:] = 0.3
    assert soft_dice_confidence(logits, wide) == pytest.approx(1.0)


def test_no_mask_is_no_confidence_and_no_number_stays_none() -> None:
    nothing = np.full((16, 16), -np.inf, np.float32)
    assert soft_dice_confidence(nothing, SQUARE) == 0.0
    assert soft_dice_confidence(np.full((16, 16), -3.0, np.float32), SQUARE) == 0.0
    assert math.isnan(soft_dice_confidence(np.full((16, 16), np.nan, np.float32), SQUARE))
