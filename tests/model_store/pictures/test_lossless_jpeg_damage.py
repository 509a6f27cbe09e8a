"""Holes in a lossless JPEG whose bytes are still valid codes: they move all later pixels."""

from __future__ import annotations

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray

from model_store.pictures.codestream_header import find_first_scan
from model_store.pictures.picture_errors import UndecodablePictureError
from model_store.pictures.picture_reading import read_picture

END = b"\xff\xd9"
HEIGHT, WIDTH = 100, 140


def shaded(bits: int, seed: int = 4) -> NDArray[np.uint16]:
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    noise = np.random.default_rng(seed).normal(0, 0.004, (HEIGHT, WIDTH))
    values = np.clip(0.5 + 0.4 * np.sin(rows / 23) * np.cos(columns / 31) + noise, 0, 1)
    return (values * ((1 << bits) - 1)).astype(np.uint8 if bits == 8 else np.uint16)


def lossless(pixels: NDArray[np.uint16], bits: int, predictor: int = 1) -> bytes:
    return bytes(
        imagecodecs.jpeg8_encode(pixels, lossless=True, bitspersample=bits, predictor=predictor)
    )


def decoded(data: bytes) -> NDArray[np.uint16]:
    pixels: NDArray[np.uint16] = read_picture(data, max_pixels=1_000_000).pixels
    return pixels


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_holes_that_move_the_picture_are_refused(bits: int) -> None:
    pixels = shaded(bits)
    data = lossless(pixels, bits)
    first, random = find_first_scan(data) + 10, np.random.default_rng(bits)
    moved = refused = 0
    for _ in range(150):
        size = int(random.choice([1, 4, 16]))
        at = int(random.integers(first, len(data) - len(END) - size))
        broken = data[:at] + bytes(size) + data[at + size :]
        unchecked = imagecodecs.jpeg8_decode(broken)
        if (unchecked != pixels).any(axis=1).sum() <= 3:
            continue  # the damage stays within a few rows
        moved += 1
        try:
            decoded(broken)
        except UndecodablePictureError:
            refused += 1
    assert moved > 40
    assert refused >= 0.9 * moved


@pytest.mark.parametrize("predictor", range(1, 8))
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_whole_files_of_every_predictor_are_read(bits: int, predictor: int) -> None:
    for seed in range(5):  # they end at different bits of their last byte
        pixels = shaded(bits, seed)
        assert np.array_equal(decoded(lossless(pixels, bits, predictor)), pixels)


@pytest.mark.parametrize("padding", [b"\0", b"\0\0\0", b"\xff\0", b"\xff"])
def test_an_encoders_padding_is_not_taken_for_codes(padding: bytes) -> None:
    pixels = shaded(12)
    data = lossless(pixels, 12)
    assert np.array_equal(decoded(data[:-2] + padding + END), pixels)
