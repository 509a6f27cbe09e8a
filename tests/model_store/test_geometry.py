"""Pixels and boxes there and back; the golden file holds preprocessing to the byte."""

import hashlib
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model_store.geometry import (
    BoxError,
    InputGeometry,
    validate_box,
    window_to_uint8,
    windowed_mean,
)
from model_store.grey_levels import grey_histogram
from model_store.logit_resampling import logits_to_image, resampling_matrix
from tests.tiny_models import make_tiny_model

SIDES = st.integers(1, 4000)
INPUT_SIZES = st.sampled_from([64, 256, 384, 1024])


def _gradient_image(dtype: type[np.unsignedinteger], height: int, width: int) -> np.ndarray:
    rows, columns = np.mgrid[0:height, 0:width]
    levels = (rows * 7919 + columns * 104729) % (np.iinfo(dtype).max + 1)
    return levels.astype(dtype)


# sha256 of (256, 256) inputs; a change here is a new PREPROCESSING_VERSION.
GOLDEN = {
    ("uint8", 300, 451): "3d15e6b59e2d9915238ca2fe18f63e0ac69295ae4f709bc469b7ca61487c468b",
    ("uint16", 451, 300): "d54c24d10a80726d40129a90cbafb5438fc511baba8c470d1b4a9cfe11b6c864",
    ("uint8", 100, 100): "3a491e7e3bfcc19f0c5f09398af9c19243bba2903ff6552088a0b1bb2e59bd15",
}


@pytest.mark.parametrize("key", GOLDEN)
def test_preprocessing_is_the_same_bytes_as_ever(key: tuple[str, int, int]) -> None:
    name, height, width = key
    image = _gradient_image(getattr(np, name), height, width)
    placed = InputGeometry(width, height, 256).image_to_input(window_to_uint8(image))
    assert hashlib.sha256(placed.tobytes()).hexdigest() == GOLDEN[key]


@given(SIDES, SIDES, INPUT_SIZES)
def test_the_longest_side_fills_the_input(width: int, height: int, size: int) -> None:
    geometry = InputGeometry(width, height, size)
    assert max(geometry.resized_width, geometry.resized_height) == size
    assert min(geometry.resized_width, geometry.resized_height) >= 1


@given(SIDES, SIDES, INPUT_SIZES, st.lists(st.floats(0, 1), min_size=4, max_size=4))
def test_boxes_keep_their_shares_of_the_image(
    width: int, height: int, size: int, shares: list[float]
) -> None:
    geometry = InputGeometry(width, height, size)
    x0, x1 = sorted(share * width for share in shares[:2])
    y0, y1 = sorted(share * height for share in shares[2:])
    across, down = geometry.resized_width, geometry.resized_height
    wanted = (x0 / width * across, y0 / height * down, x1 / width * across, y1 / height * down)
    assert geometry.box_to_input((x0, y0, x1, y1)) == pytest.approx(wanted, abs=1e-6)


@given(st.integers(2, 96), st.floats(0.05, 1.0), st.integers(1, 500))
def test_resampling_weights_sum_to_one(source: int, share: float, target: int) -> None:
    matrix = resampling_matrix(source, share, target)
    torch.testing.assert_close(matrix.sum(dim=1), torch.ones(target))


def test_resampling_keeps_a_straight_line() -> None:
    line = torch.arange(16.0)
    fine = resampling_matrix(16, 1.0, 64) @ line
    wanted = (torch.arange(64.0) + 0.5) / 4 - 0.5
    torch.testing.assert_close(fine[8:-8], wanted[8:-8])  # the ends repeat the last sample


def test_a_mask_lands_where_its_logits_are() -> None:
    geometry = InputGeometry(width=400, height=200, input_size=256)  # padded below
    logits = torch.full((64, 64), -10.0)
    logits[8:24, 16:48] = 10.0  # x 64..192, y 32..96 of the input: x 100..300, y 50..150
    mask = logits_to_image(logits, geometry) > 0
    rows, columns = torch.nonzero(mask.any(dim=1)), torch.nonzero(mask.any(dim=0))
    assert mask.shape == (200, 400)
    assert abs(int(rows[0]) - 50) <= 1 and abs(int(rows[-1]) - 149) <= 1
    assert abs(int(columns[0]) - 100) <= 1 and abs(int(columns[-1]) - 299) <= 1


def test_padding_is_outside_the_valid_region() -> None:
    geometry = InputGeometry(width=100, height=50, input_size=64)
    valid = geometry.valid_region()
    assert valid[:32].all() and not valid[32:].any()
    assert not geometry.image_to_input(np.full((50, 100), 255, np.uint8))[32:].any()


def test_the_window_ignores_single_bright_letters_and_keeps_16_bits() -> None:
    image = np.tile(np.arange(1000, 1100, dtype=np.uint16), (100, 1))
    image[0, 0] = 65535  # one burnt-in pixel
    windowed = window_to_uint8(image)
    assert windowed[50].min() == 0 and windowed[50].max() == 255
    assert len(np.unique(windowed[50])) > 90


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_the_mean_by_the_histogram_is_that_of_the_windowed_pixels(dtype: type) -> None:
    values = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (60, 70), dtype=dtype)
    for image in (values, np.full((9, 8), 77, dtype)):
        expected = float(window_to_uint8(image).mean())
        assert windowed_mean(grey_histogram(image)) == pytest.approx(expected, abs=1e-9)


def test_a_constant_image_is_black() -> None:
    assert not window_to_uint8(np.full((40, 40), 77, np.uint8)).any()


def test_windowing_is_monotonic() -> None:
    image = np.sort(np.random.default_rng(0).integers(0, 65536, 4096).astype(np.uint16))
    windowed = window_to_uint8(image.reshape(64, 64)).ravel()
    assert (np.diff(windowed.astype(int)) >= 0).all()


@pytest.mark.parametrize("image", [np.zeros((4, 4)), np.zeros((4, 4, 3), np.uint8)])
def test_other_images_are_refused(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint8 or uint16"):
        window_to_uint8(image)


@pytest.mark.parametrize(
    ("box", "said"),
    [
        ((0, 0, 10), "has 3"),
        ((0, 0, 10, 10, 5), "has 5"),
        ((0, 0, math.nan, 10), "finite"),
        ((0, 0, math.inf, 10), "finite"),
        ((10, 0, 0, 10), "x0 < x1"),
        ((0, 10, 10, 10), "y0 < y1"),
        ((-1, 0, 10, 10), "100 x 80"),
        ((0, 0, 10, 81), "100 x 80"),
        ((5, 5, 5.5, 20), "one pixel"),
    ],
)
def test_a_bad_box_is_named(box: tuple[float, ...], said: str) -> None:
    with pytest.raises(BoxError, match=said):
        validate_box(box, 100, 80)


def test_a_box_may_touch_the_edges() -> None:
    assert validate_box((0, 0, 100, 80), 100, 80) == (0.0, 0.0, 100.0, 80.0)


@pytest.mark.parametrize("channels", [1, 3])
def test_looking_up_is_normalising(channels: int) -> None:
    """CPUs look values up, GPUs and training compute them: the same to the bit."""
    statistics: dict[str, Any] = {
        "pixel_mean": (123.7, 116.3, 103.5),
        "pixel_std": (58.4, 57.1, 57.4),
    }
    model = make_tiny_model(**({"in_channels": 3, **statistics} if channels == 3 else {}))
    geometry = InputGeometry(97, 61, 64)
    pixels = geometry.image_to_input(np.arange(97 * 61).astype(np.uint8).reshape(61, 97))
    levels = model.normalize(torch.arange(256)).view(-1, 256).numpy()
    grey, valid = torch.from_numpy(pixels), torch.from_numpy(geometry.valid_region())
    wanted = model.normalize(grey[None, None], valid[None, None])[0].numpy()
    assert np.array_equal(geometry.look_up(pixels, levels), wanted)
    assert wanted[:, -1].any() == 0 and wanted[:, 0].any()
