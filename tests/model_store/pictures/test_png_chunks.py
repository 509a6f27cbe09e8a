"""Pixel data are inflated before Pillow sees them: the same pixels, and no more memory."""

from __future__ import annotations

import io
import zlib

import numpy as np
import pytest
from PIL import Image

from model_store.pictures import png_chunks
from model_store.pictures.picture_errors import UndecodablePictureError
from model_store.pictures.picture_reading import read_picture
from model_store.pictures.png_chunks import keep_pixel_chunks, png_chunk, read_png_header
from tests.raster_files import SIGNATURE, encoded, png_with, ramp

MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")


def pictured(mode: str) -> Image.Image:
    if mode == "I;16":
        return Image.fromarray(ramp(49, 61).astype(np.uint16) * 257)
    return Image.fromarray(ramp(49, 61)).convert(mode)


def payload(data: bytes) -> bytes:
    """The data of the one IDAT chunk that comes out."""
    start = data.index(b"IDAT")
    return data[start + 4 : start + 4 + int.from_bytes(data[start - 4 : start])]


def with_pixel_data(data: bytes, deflated: bytes) -> bytes:
    """The same PNG with other pixel data."""
    start = data.index(b"IDAT") - 4
    return data[:start] + png_chunk(b"IDAT", deflated) + png_chunk(b"IEND", b"")


@pytest.mark.parametrize("mode", MODES)
def test_every_kind_comes_out_uncompressed_with_the_same_pixels(mode: str) -> None:
    data = encoded(pictured(mode), "PNG")
    kept = keep_pixel_chunks(data)
    size_bytes = read_png_header(data).pixel_data_bytes
    assert size_bytes is not None
    assert len(payload(kept)) >= size_bytes
    assert zlib.decompress(payload(kept)) == zlib.decompress(payload(data))
    for file in (data, kept):
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(file))), np.asarray(pictured(mode)))


@pytest.mark.parametrize("size", [(65_534, 1), (65_535, 1), (257, 510), (400, 700)])
def test_uncompressed_blocks_of_64_kib_join_to_the_same_bytes(size: tuple[int, int]) -> None:
    """One block, one byte more than a block, whole blocks, and several with a rest."""
    width, height = size
    pixels = np.random.default_rng(width).integers(0, 256, (height, width), dtype=np.uint8)
    data = encoded(Image.fromarray(pixels), "PNG")
    kept = keep_pixel_chunks(data)
    size_bytes = height * (1 + width)
    assert len(zlib.decompress(payload(kept))) == size_bytes
    assert len(payload(kept)) == size_bytes + 5 * -(-size_bytes // 65_535) + 6
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(kept))), pixels)


def test_large_images_are_left_to_pillow_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(pictured("L"), "PNG")
    monkeypatch.setattr(png_chunks, "LARGEST_INFLATED_BYTES", 49 * 62 - 1)
    assert payload(keep_pixel_chunks(data)) == payload(data)
    assert np.array_equal(read_picture(data, max_pixels=10_000).pixels, ramp(49, 61))
    monkeypatch.setattr(png_chunks, "LARGEST_INFLATED_BYTES", 49 * 62)
    assert payload(keep_pixel_chunks(data)) != payload(data)


def test_interlaced_images_are_left_to_pillow() -> None:
    # Seven passes of an 8 x 8 image of zeros: 15 rows with a filter byte each, 64 pixels.
    header = bytes([0, 0, 0, 64, 0, 0, 0, 64, 8, 0, 0, 0, 1])
    rows = [(8, 8), (8, 8), (8, 16), (16, 16), (16, 32), (32, 32), (32, 64)]  # rows, row bytes
    raw = b"".join((b"\0" + bytes([7]) * width) * height for height, width in rows)
    data = SIGNATURE + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(raw))
    found = read_picture(data + png_chunk(b"IEND", b""), max_pixels=10_000)
    assert (found.pixels == 7).all() and found.pixels.shape == (64, 64)


def test_what_follows_the_pixels_is_never_inflated() -> None:
    """A bomb behind the last row: 100 MB of zeros in 100 kB."""
    image = encoded(pictured("L"), "PNG")
    raw = zlib.decompress(payload(image))
    bomb = zlib.compress(raw + bytes(100_000_000))
    kept = keep_pixel_chunks(with_pixel_data(image, bomb))
    assert len(kept) < 2 * len(raw)
    assert zlib.decompress(payload(kept)) == raw


def test_pixel_data_that_end_early_are_truncated() -> None:
    image = encoded(pictured("L"), "PNG")
    raw = zlib.decompress(payload(image))
    with pytest.raises(UndecodablePictureError, match="truncated"):
        keep_pixel_chunks(with_pixel_data(image, zlib.compress(raw[:-1])))


def test_a_wrong_checksum_inside_the_pixel_data_is_noticed() -> None:
    image = encoded(pictured("L"), "PNG")
    changed = bytearray(payload(image))
    changed[-1] ^= 1  # of zlib's own checksum; the chunk's is made right
    with pytest.raises(UndecodablePictureError, match="damaged"):
        keep_pixel_chunks(with_pixel_data(image, bytes(changed)))


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("place", ["lowest", "highest", "extra bits"])
def test_a_transparent_grey_value_is_laid_over_black_at_every_depth(depth: int, place: str) -> None:
    highest = (1 << depth) - 1
    values = np.tile(np.arange(64) % (highest + 1), (48, 1))
    values[:20] = highest
    bits = "".join(f"{value:0{depth}b}" for value in values.ravel())
    rows = np.frombuffer(int(bits, 2).to_bytes(len(bits) // 8, "big"), np.uint8).reshape(48, -1)
    transparent = 0 if place == "lowest" else highest
    stored = transparent if place != "extra bits" else transparent | (0xFFFF << depth & 0xFFFF)
    plain = png_with(0, depth, rows, 64)
    end = plain.index(b"IDAT") - 4
    data = plain[:end] + png_chunk(b"tRNS", stored.to_bytes(2, "big")) + plain[end:]
    picture = read_picture(data, max_pixels=10_000)
    scale = 1 if depth >= 8 else 255 // highest
    expected = np.where(values == transparent, 0, values) * scale
    assert np.array_equal(picture.pixels, expected)
    assert [warning.code for warning in picture.warnings] == ["alpha_composited"]


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
@pytest.mark.parametrize("palette", [None, b"", b"\0" * 4])
def test_numbers_of_colours_without_their_palette_are_refused(
    depth: int, palette: bytes | None
) -> None:
    plain = png_with(3, depth, np.zeros((48, 8 * depth), np.uint8), 64)
    end = plain.index(b"IDAT") - 4
    chunk = b"" if palette is None else png_chunk(b"PLTE", palette)
    with pytest.raises(UndecodablePictureError):
        read_picture(plain[:end] + chunk + plain[end:], max_pixels=10_000)
