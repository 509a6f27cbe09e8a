"""Counts and lookups are those of NumPy, value for value, whatever library makes them."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_store import grey_levels
from model_store.grey_levels import grey_histogram, replace_levels

LEVELS: dict[type, int] = {np.uint8: 256, np.uint16: 65536}
KINDS = st.sampled_from([np.uint8, np.uint16])
SIDES = st.integers(1, 70)


def xray(kind: type, height: int, width: int, seed: int) -> np.ndarray:
    """Values of the whole range or of a part of it, both ends among them."""
    rng = np.random.default_rng(seed)
    highest = int(rng.integers(1, LEVELS[kind]))
    pixels = rng.integers(0, highest, (height, width), kind, endpoint=True)
    pixels.flat[0], pixels.flat[-1] = 0, highest
    return pixels


def table(kind: type, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, LEVELS[kind], np.uint8)


@given(KINDS, SIDES, SIDES, st.integers(0, 2**32 - 1))
def test_they_are_those_of_numpy(kind: type, height: int, width: int, seed: int) -> None:
    pixels, levels = xray(kind, height, width, seed), table(kind, seed)
    counts = np.bincount(pixels.ravel(), minlength=LEVELS[kind])
    found = grey_histogram(pixels)
    assert found.dtype == np.int64
    assert np.array_equal(found, counts)
    replaced = replace_levels(pixels, levels)
    assert replaced.dtype == np.uint8
    assert np.array_equal(replaced, levels[pixels])
    replaced[:] = 0  # callers may write to it


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_every_level_is_counted_and_replaced(kind: type) -> None:
    pixels: np.ndarray = np.arange(LEVELS[kind], dtype=kind).reshape(16, -1)
    levels = table(kind, 1)
    assert np.array_equal(grey_histogram(pixels), np.ones(LEVELS[kind]))
    assert np.array_equal(replace_levels(pixels, levels).ravel(), levels)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_turned_mirrored_and_cut_out_x_rays_need_no_copy_by_the_caller(kind: type) -> None:
    pixels, levels = xray(kind, 60, 44, 3), table(kind, 3)
    for view in (pixels.T, pixels[::-1], pixels[:, ::-1], pixels[5:40:2, 3:], np.rot90(pixels)):
        counts = np.bincount(view.ravel(), minlength=LEVELS[kind])
        assert np.array_equal(grey_histogram(view), counts)
        assert np.array_equal(replace_levels(view, levels), levels[view])


def test_counts_beyond_what_a_float_holds_are_exact() -> None:
    """In 2**24 + 4096 equal pixels the last ones would be lost."""
    pixels = np.full((4097, 4096), 7, np.uint16)
    assert grey_histogram(pixels)[7] == pixels.size == 2**24 + 4096


def test_counting_in_parts_adds_up(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = xray(np.uint16, 61, 40, 5)
    whole = grey_histogram(pixels)
    for most in (1, 40, 41, 400):
        monkeypatch.setattr(grey_levels, "MOST_COUNTED_PX", most)
        assert np.array_equal(grey_histogram(pixels), whole)


def test_bytes_need_no_opencv() -> None:
    """It would cost the network's process 0.1 s at its start."""
    lines = (
        "import sys, numpy",
        "from model_store.preprocessing import prepare",
        "from model_store.prediction import PredictionRequest",
        "prepare(PredictionRequest(numpy.eye(64, dtype=numpy.uint8)), 64)",
        "print('cv2' in sys.modules)",
    )
    found = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)],
        env={"PYTHONPATH": ":".join(sys.path)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert found.stdout == "False\n"
