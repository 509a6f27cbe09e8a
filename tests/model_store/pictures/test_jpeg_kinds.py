"""JPEG files of rarer kinds are read, or refused by name: they are not damaged."""

from __future__ import annotations

import io
import re
from collections.abc import Callable

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from model_store.pictures.picture_errors import UndecodablePictureError, UnsupportedPictureError
from model_store.pictures.picture_reading import Picture, read_picture
from model_store.pictures.picture_warnings import PictureWarningCode


def shaded(bits: int = 8, height: int = 90, width: int = 121) -> NDArray[np.uint16]:
    rows, columns = np.mgrid[0:height, 0:width]
    noise = np.random.default_rng(8).normal(0, 0.02, (height, width))
    values = np.clip(0.5 + 0.4 * np.sin(rows / 13) * np.cos(columns / 19) + noise, 0, 1)
    return (values * ((1 << bits) - 1)).astype(np.uint16)


def decoded(data: bytes | bytearray) -> Picture:
    return read_picture(bytes(data), max_pixels=1_000_000)


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_lossless_files_are_read(bits: int) -> None:
    pixels = shaded(bits)
    typed = pixels.astype(np.uint8) if bits == 8 else pixels
    lossless = imagecodecs.jpeg8_encode(typed, lossless=True, bitspersample=bits)
    for data in (lossless, imagecodecs.jpegls_encode(typed)):
        assert np.array_equal(decoded(data).pixels, pixels)


def test_files_of_12_bits_keep_them() -> None:
    pixels = shaded(12)
    picture = decoded(imagecodecs.jpeg8_encode(pixels, bitspersample=12, level=98))
    assert picture.pixels.dtype == np.uint16
    assert np.abs(picture.pixels.astype(int) - pixels).max() < 60


def test_the_tag_of_rarer_kinds_is_obeyed() -> None:
    pixels = shaded()
    exif = Image.Exif()
    exif[0x0112] = 6
    body = b"Exif\0\0" + exif.tobytes().removeprefix(b"Exif\0\0")
    segment = b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body
    data = imagecodecs.jpegls_encode(pixels.astype(np.uint8))
    picture = decoded(data[:2] + segment + data[2:])
    assert np.array_equal(picture.pixels, np.rot90(pixels, -1))
    assert [one.code for one in picture.warnings] == [PictureWarningCode.ORIENTATION_APPLIED]


def lossless(pixels: NDArray[np.uint16]) -> bytes:
    return bytes(imagecodecs.jpeg8_encode(pixels, lossless=True, bitspersample=12))


@pytest.mark.parametrize("trailer", [b"abc", bytes(500), b"\xff\xd8\xff\xe0 and its end \xff\xd9"])
@pytest.mark.parametrize("kind", [imagecodecs.jpegls_encode, lossless])
def test_bytes_behind_the_end_do_no_harm(
    kind: Callable[[NDArray[np.uint16]], bytes], trailer: bytes
) -> None:
    data = bytes(kind(shaded(12))) + trailer
    assert np.array_equal(decoded(data).pixels, shaded(12))


@pytest.mark.parametrize("kind", [imagecodecs.jpegls_encode, imagecodecs.jpeg8_encode])
@pytest.mark.parametrize("share", [0.4, 0.8, 0.99])
def test_rarer_kinds_cut_short_are_damaged(kind: object, share: float) -> None:
    options = {} if kind is imagecodecs.jpegls_encode else {"bitspersample": 12}
    data = kind(shaded(12), **options)  # type: ignore[operator]
    with pytest.raises(UndecodablePictureError):
        decoded(data[: int(len(data) * share)])


def test_rarer_kinds_in_colour_are_refused_by_name() -> None:
    colours = np.dstack([shaded(12)] * 3)
    with pytest.raises(UnsupportedPictureError, match="JPEG-LS in colour"):
        decoded(imagecodecs.jpegls_encode(colours))


@pytest.mark.parametrize("marker", [0xC5, 0xC6, 0xCD])
def test_hierarchical_files_are_refused_by_name(marker: int) -> None:
    buffer = io.BytesIO()
    Image.fromarray(shaded().astype(np.uint8)).save(buffer, "JPEG")
    data = bytearray(buffer.getvalue())
    data[data.index(b"\xff\xc0") + 1] = marker
    with pytest.raises(UnsupportedPictureError, match="hierarchical"):
        decoded(bytes(data))


def padded(data: bytes, lengths: tuple[int, ...]) -> bytes:
    """Puts zeros before each restart marker, and before the end, of lengths in turn."""
    start = data.index(b"\xff\xda")
    turns = iter(range(10**6))

    def zeros(found: re.Match[bytes]) -> bytes:
        return bytes(lengths[next(turns) % len(lengths)]) + found[0]

    return data[:start] + re.sub(rb"\xff[\xd0-\xd7\xd9]", zeros, data[start:])


@pytest.mark.parametrize("lengths", [(1,), (2,), (20,), (300,), (4, 20)])
@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("rows", [1, 3])
def test_zeros_before_restart_markers_are_padding(
    lengths: tuple[int, ...], mode: str, rows: int
) -> None:
    buffer = io.BytesIO()
    image = Image.fromarray(shaded().astype(np.uint8)).convert(mode)
    image.save(buffer, "JPEG", quality=93, restart_marker_rows=rows)
    whole = buffer.getvalue()
    expected = decoded(whole).pixels
    assert np.array_equal(decoded(padded(whole, lengths)).pixels, expected)


def test_zeros_in_place_of_a_part_are_damage_still() -> None:
    buffer = io.BytesIO()
    image = Image.fromarray(shaded().astype(np.uint8))
    image.save(buffer, "JPEG", quality=93, restart_marker_rows=2)
    data = buffer.getvalue()
    third = [found.start() for found in re.finditer(rb"\xff[\xd0-\xd7]", data)][2]
    with pytest.raises(UndecodablePictureError):
        decoded(data[: third - 200] + bytes(200) + data[third:])
