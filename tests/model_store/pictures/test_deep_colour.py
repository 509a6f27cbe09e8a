"""Colour with 16 bits per channel: grey at full depth, in PNG and TIFF."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from model_store.pictures.picture_reading import Picture, read_picture
from model_store.pictures.png_chunks import png_chunk
from tests.raster_files import SIGNATURE, png_with

HEIGHT, WIDTH = 140, 61  # more rows than are converted at once
RGB, RGBA = 2, 6  # colour types of PNG


def noise(channels: int) -> NDArray[np.uint16]:
    shape = (HEIGHT, WIDTH, channels) if channels > 1 else (HEIGHT, WIDTH)
    return np.random.default_rng(7).integers(0, 65_536, shape).astype(np.uint16)


def equal_channels(grey: NDArray[np.uint16], alpha: int | None = None) -> NDArray[np.uint16]:
    channels = [grey] * 3 if alpha is None else [*[grey] * 3, np.full_like(grey, alpha)]
    return np.dstack(channels)


def png(channels: NDArray[np.uint16], filter_type: int = 0) -> bytes:
    rows = channels.astype(">u2").reshape(HEIGHT, -1)
    colour_type = RGBA if channels.shape[-1] == 4 else RGB
    return png_with(colour_type, 16, rows, WIDTH, filter_type)


def with_chunk(data: bytes, chunk: bytes) -> bytes:
    at = data.index(b"IDAT") - 4
    return data[:at] + chunk + data[at:]


def tiff(channels: NDArray[np.uint16], order: str, alpha_kind: int = 0, planar: int = 1) -> bytes:
    stored = channels if planar == 1 else np.moveaxis(channels, -1, 0)
    body = stored.astype(f"{order}u2").tobytes()
    samples = channels.shape[-1]
    size = len(body) if planar == 1 else len(body) // samples
    extra = struct.pack(f"{order}{samples}H", *[16] * samples)
    blocks = [8 + number * size for number in range(1 if planar == 1 else samples)]
    extra_at = 8 + len(body)
    extra += struct.pack(f"{order}{2 * len(blocks)}L", *blocks, *[size] * len(blocks))
    tags = [(256, 4, 1, WIDTH), (257, 4, 1, HEIGHT), (258, 3, samples, extra_at), (259, 4, 1, 1)]
    tags += [(262, 4, 1, 2)]
    places = extra_at + 2 * samples
    is_one = len(blocks) == 1
    tags += [(273, 4, len(blocks), 8 if is_one else places), (277, 4, 1, samples)]
    tags += [(278, 4, 1, HEIGHT)]
    tags += [(279, 4, len(blocks), size if is_one else places + 4 * len(blocks))]
    tags += [(284, 4, 1, planar)]
    if samples == 4:
        tags += [(338, 4, 1, alpha_kind)]
    directory = struct.pack(f"{order}H", len(tags))
    directory += b"".join(struct.pack(f"{order}HHLL", *tag) for tag in tags) + bytes(4)
    mark = b"II" if order == "<" else b"MM"
    head = struct.pack(f"{order}2sHL", mark, 42, extra_at + len(extra))
    return head + body + extra + directory


def read(data: bytes) -> Picture:
    return read_picture(data, max_pixels=1_000_000)


def codes(picture: Picture) -> list[str]:
    return [str(one.code) for one in picture.warnings]


@pytest.mark.parametrize("alpha", [None, 65_535])
def test_equal_channels_of_a_png_come_out_as_they_were(alpha: int | None) -> None:
    grey = noise(1)
    picture = read(png(equal_channels(grey, alpha)))
    assert picture.pixels.dtype == np.uint16
    assert np.array_equal(picture.pixels, grey)
    assert codes(picture) == []


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("planar", [1, 2])
def test_equal_channels_of_a_tiff_come_out_as_they_were(order: str, planar: int) -> None:
    grey = noise(1)
    picture = read(tiff(equal_channels(grey), order, planar=planar))
    assert picture.pixels.dtype == np.uint16
    assert np.array_equal(picture.pixels, grey)
    assert codes(picture) == []


def test_colours_are_weighted_as_those_of_8_bits() -> None:
    colours = np.random.default_rng(3).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    expected = np.asarray(Image.fromarray(colours).convert("L")).astype(int)
    deep = colours.astype(np.uint16) * 257
    for data in (png(deep), tiff(deep, "<"), tiff(deep, ">", planar=2)):
        picture = read(data)
        assert np.abs(picture.pixels / 257 - expected).max() <= 0.51
        assert codes(picture) == ["colour_to_grey"]


@pytest.mark.parametrize("filter_type", [0, 1, 2])
def test_both_bytes_are_unfiltered_as_their_row_says(filter_type: int) -> None:
    grey = noise(1)
    stored = equal_channels(grey).astype(">u2").view(np.uint8).reshape(HEIGHT, -1)
    if filter_type == 1:  # differences to the pixel at the left, 6 bytes before
        left = np.pad(stored[:, :-6], ((0, 0), (6, 0)))
    else:  # to the pixel above
        left = np.pad(stored[:-1], ((1, 0), (0, 0)))
    rows = stored - left if filter_type else stored
    data = png_with(RGB, 16, rows, WIDTH, filter_type)
    assert np.array_equal(read(data).pixels, grey)


def test_interlaced_rows_are_put_in_their_place() -> None:
    grey = noise(1)
    channels = equal_channels(grey).astype(">u2")
    raw = b""
    for x, y, across, down in ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4),
                               (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)):  # fmt: skip
        part = channels[y::down, x::across]
        raw += b"".join(b"\0" + row.tobytes() for row in part)
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 16, RGB, 0, 0, 1)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(raw)), (b"IEND", b""))
    data = SIGNATURE + b"".join(png_chunk(*chunk) for chunk in chunks)
    assert np.array_equal(read(data).pixels, grey)


def test_transparent_pixels_are_laid_over_black() -> None:
    channels = noise(4)
    channels[..., :3] = channels[..., :1]
    grey, alpha = channels[..., 0].astype(np.uint64), channels[..., 3].astype(np.uint64)
    expected = ((grey * alpha + 32_767) // 65_535).astype(np.uint16)
    for data in (png(channels), tiff(channels, "<", alpha_kind=2), tiff(channels, ">", 2)):
        picture = read(data)
        assert np.array_equal(picture.pixels, expected)
        assert codes(picture) == ["alpha_composited"]


def test_colours_that_hold_their_alpha_lie_on_black_already() -> None:
    channels = noise(4)
    channels[..., :3] = channels[..., :1]
    picture = read(tiff(channels, "<", alpha_kind=1))
    assert np.array_equal(picture.pixels, channels[..., 0])
    assert codes(picture) == ["alpha_composited"]


def test_a_fourth_channel_of_no_meaning_is_dropped() -> None:
    channels = noise(4)
    channels[..., :3] = channels[..., :1]
    picture = read(tiff(channels, "<", alpha_kind=0))
    assert np.array_equal(picture.pixels, channels[..., 0])
    assert codes(picture) == []


def test_a_transparent_colour_of_a_png_is_black() -> None:
    grey = noise(1)
    grey[40:50] = 51_234
    data = with_chunk(
        png(equal_channels(grey)), png_chunk(b"tRNS", struct.pack(">3H", *[51_234] * 3))
    )
    picture = read(data)
    assert np.array_equal(picture.pixels, np.where(grey == 51_234, 0, grey))
    assert codes(picture) == ["alpha_composited"]
