"""Masks drawn in strips equal those of the two matrices, to the pixel."""

import numpy as np
import pytest
import torch

from model_store.geometry import InputGeometry
from model_store.logit_resampling import logits_to_image, resampling_matrix
from model_store.mask_resampling import logits_above, resampling_strips

SIZES = [
    (1024, 1024, 256),
    (1000, 700, 384),
    (40, 55, 64),
    (333, 512, 512),
    (7, 3, 64),
    (90, 1, 32),
    (2100, 1500, 384),
]


@pytest.mark.parametrize(("width", "height", "side"), SIZES)
@pytest.mark.parametrize("threshold", [0.0, 0.4])
def test_strips_draw_the_same_mask(width: int, height: int, side: int, threshold: float) -> None:
    geometry = InputGeometry(width, height, side)
    coarse = torch.randn(1, 1, 6, 6, generator=torch.Generator().manual_seed(width)) * 8
    logits = torch.nn.functional.interpolate(coarse, size=side // 4, mode="bicubic")[0, 0]
    wanted = logits_to_image(logits, geometry) > threshold
    got = logits_above(logits.numpy(), geometry, threshold)
    assert got.shape == (height, width) and got.dtype == bool
    assert np.array_equal(got, wanted.numpy())


@pytest.mark.parametrize(("source", "share", "target"), [(64, 1.0, 1024), (64, 0.7, 50), (2, 1, 9)])
def test_strips_leave_out_zeros_only(source: int, share: float, target: int) -> None:
    whole = np.zeros((target, source), np.float32)
    for strip in resampling_strips(source, share, target):
        whole[strip.target, strip.source] = strip.weights
    assert np.array_equal(whole, resampling_matrix(source, share, target).numpy())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers_draw_no_mask(value: float) -> None:
    logits = np.zeros((16, 16), np.float32)
    logits[3, 5] = value
    with pytest.raises(ValueError, match="not numbers"):
        logits_above(logits, InputGeometry(40, 40, 64), 0.0)
