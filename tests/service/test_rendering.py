"""Masks and overlays as files: exact pixels, an undamaged X-ray, contours where they belong."""

from __future__ import annotations

import io
import time
import zlib
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from pycocotools import mask as coco_mask

from model_store.pictures.png_chunks import _checked_chunks
from service.imaging import png_encoding
from service.imaging.contour import contour_of
from service.imaging.png_encoding import encode_png
from service.imaging.rendering import (
    BOX_COLOUR,
    MASK_COLOURS,
    draw_overlay,
    encode_mask_png,
    encode_rle,
    overlay_colours,
    window_for_display,
)
from service.imaging.side_threads import side_threads

Piece = TypeVar("Piece")

# pycocotools 2.0.11 decodes through a numpy 1 protocol and numpy 2 says so; encoding does not.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:pycocotools")


def grey_image(height: int = 90, width: int = 120) -> NDArray[np.uint8]:
    return np.random.default_rng(3).integers(0, 256, (height, width), dtype=np.uint8)


def disc(height: int = 90, width: int = 120, radius: int = 25) -> NDArray[np.bool_]:
    rows, columns = np.mgrid[0:height, 0:width]
    return (rows - 40) ** 2 + (columns - 60) ** 2 < radius**2


def opened(png: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(png))
    image.load()
    return image


def test_mask_png_is_one_channel_of_0_and_255() -> None:
    image = opened(encode_mask_png(disc()))
    assert (image.mode, image.size, image.format) == ("L", (120, 90), "PNG")
    assert np.array_equal(np.asarray(image), disc() * np.uint8(255))


@pytest.mark.parametrize("mask", [disc(), np.zeros((7, 5), bool), np.ones((5, 7), bool)])
def test_rle_is_read_back_by_pycocotools(mask: NDArray[np.bool_]) -> None:
    encoded = encode_rle(mask)
    assert isinstance(encoded["counts"], str)
    assert encoded["size"] == list(mask.shape)
    assert np.array_equal(coco_mask.decode(encoded).astype(bool), mask)


@pytest.mark.parametrize("seed", range(40))
def test_rle_is_what_pycocotools_itself_writes(seed: int) -> None:
    """Runs that meet at the end of a column, full and empty columns, one row, one pixel."""
    random = np.random.default_rng(seed)
    height, width = random.integers(1, 9, 2)
    drawn = random.random((height, width)) < random.choice([0.0, 0.2, 0.5, 0.9, 1.0])
    expected = coco_mask.encode(np.asfortranarray(drawn.astype(np.uint8)))["counts"].decode()
    assert encode_rle(drawn) == {"size": [height, width], "counts": expected}


def test_where_masks_overlap_the_last_is_drawn_as_if_it_were_alone() -> None:
    grey = np.full((200, 200), 120, np.uint8)
    first, last = np.zeros((2, 200, 200), dtype=bool)
    first[20:150, 20:150] = True
    last[60:190, 60:190] = True
    nothing = np.zeros_like(first)
    both = draw_overlay(grey, [first, last])
    assert np.array_equal(both[last], draw_overlay(grey, [nothing, last])[last])
    assert np.array_equal(both[~last], draw_overlay(grey, [first])[~last])


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (33, 57)])
@pytest.mark.parametrize("channels", [(), (3,)])
def test_png_encoder_is_lossless(shape: tuple[int, int], channels: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape + channels, dtype=np.uint8)
    assert np.array_equal(np.asarray(opened(encode_png(pixels))), pixels)


def test_png_encoder_takes_any_memory_order_and_refuses_other_types() -> None:
    pixels = grey_image()
    assert np.array_equal(np.asarray(opened(encode_png(pixels.T))), pixels.T)
    with pytest.raises(ValueError, match="cannot write"):
        encode_png(pixels.astype(np.uint16))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="cannot write"):
        encode_png(np.zeros((4, 4, 4), np.uint8))


@pytest.mark.parametrize("height", [2, 3, 600, 601])
@pytest.mark.parametrize("kind", ["grey", "rgb", "rgbx"])
def test_a_picture_in_parts_is_lossless_and_one_zlib_stream(
    monkeypatch: pytest.MonkeyPatch, height: int, kind: str
) -> None:
    monkeypatch.setattr(png_encoding, "PARTS_FROM_BYTES", 1)
    rgb = np.random.default_rng(height).integers(0, 256, (height, 70, 3), dtype=np.uint8)
    rgb[height // 2 :, :60] = 255  # long runs and large sums beside noise
    rgbx = np.concatenate([rgb, np.zeros_like(rgb[..., :1])], axis=2).view("<u4")[..., 0]
    pixels = {"grey": rgb[..., 0], "rgb": rgb, "rgbx": rgbx}[kind]
    counts: list[int] = []

    def backwards(pieces: Sequence[Callable[[], Piece]]) -> list[Piece]:
        counts.append(len(pieces))
        return [piece() for piece in reversed(pieces)][::-1]

    png = encode_png(pixels)
    with monkeypatch.context() as patched:
        patched.setattr(side_threads(), "each", backwards)
        assert encode_png(pixels) == png
    parts = min(height, png_encoding.PARTS)
    assert counts == [parts]
    assert np.array_equal(np.asarray(opened(png)), rgb[..., 0] if kind == "grey" else rgb)
    # Pillow checks no checksum of pixels; reading the chunks checks theirs, zlib its own.
    chunks = [chunk[8:-4] for name, chunk in _checked_chunks(png) if name == b"IDAT"]
    assert len(chunks) == parts + 1
    row_bytes = 70 if kind == "grey" else 210
    assert len(zlib.decompress(b"".join(chunks))) == height * (1 + row_bytes)


def test_the_xray_outside_the_mask_is_untouched() -> None:
    pixels, mask = grey_image(), disc()
    overlay = draw_overlay(pixels, [mask])
    assert overlay.shape == (90, 120, 3)
    assert overlay.dtype == np.uint8
    for channel in range(3):
        assert np.array_equal(overlay[..., channel][~mask], pixels[~mask])


def test_the_tint_keeps_brightness_and_order_of_grey_values() -> None:
    pixels = np.tile(np.arange(256, dtype=np.uint8), (256, 1))  # a ramp, left to right
    mask = np.ones((256, 256), bool)
    inner = draw_overlay(pixels, [mask])[128, 4:-4].astype(float)  # away from the contour
    luma = inner @ np.array([0.299, 0.587, 0.114])
    assert np.abs(luma - np.arange(4, 252)).max() <= 1.0
    assert (np.diff(inner, axis=0) >= 0).all()
    assert np.ptp(inner[124]) > 30  # and the tint is there to be seen


def test_the_contour_is_the_outermost_pixels_of_the_mask() -> None:
    pixels, mask = np.full((90, 120), 100, np.uint8), np.zeros((90, 120), bool)
    mask[20:60, 30:80] = True
    overlay = draw_overlay(pixels, [mask])
    is_contour = (overlay == MASK_COLOURS[0]).all(axis=-1)
    expected = mask.copy()
    expected[21:59, 31:79] = False
    assert np.array_equal(is_contour, expected)


def test_the_contour_is_drawn_at_the_image_border_too() -> None:
    overlay = draw_overlay(np.full((40, 40), 100, np.uint8), [np.ones((40, 40), bool)])
    assert (overlay[0] == MASK_COLOURS[0]).all()
    assert (overlay[:, -1] == MASK_COLOURS[0]).all()


def test_contour_width_grows_with_the_image() -> None:
    def width(side: int) -> int:
        mask = np.zeros((side, side), bool)
        mask[side // 4 : side // 2, side // 4 : side // 2] = True
        overlay = draw_overlay(np.full((side, side), 100, np.uint8), [mask])
        row = (overlay[side * 3 // 8] == MASK_COLOURS[0]).all(axis=-1)
        return int(row.sum()) // 2

    assert [width(side) for side in (256, 1024, 2048)] == [1, 2, 4]


def test_masks_have_different_colours_and_boxes_are_half_open() -> None:
    pixels = np.full((90, 120), 100, np.uint8)
    left, right = np.zeros((90, 120), bool), np.zeros((90, 120), bool)
    left[20:40, 20:40], right[20:40, 60:80] = True, True
    overlay = draw_overlay(pixels, [left, right], [(10.0, 10.0, 50.0, 50.5)])
    assert tuple(overlay[20, 30]) == MASK_COLOURS[0]
    assert tuple(overlay[20, 70]) == MASK_COLOURS[1]
    is_box = (overlay == BOX_COLOUR).all(axis=-1)
    rows, columns = np.nonzero(is_box)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (10, 50, 10, 49)
    assert is_box.sum() == 2 * (40 + 41) - 4


@pytest.mark.parametrize("box", [(0.0, 0.0, 120.0, 90.0), (3.2, 4.8, 4.3, 5.9)])
def test_boxes_at_the_edge_and_tiny_boxes_stay_inside(box: tuple[float, ...]) -> None:
    overlay = draw_overlay(np.full((90, 120), 100, np.uint8), [], [box])  # type: ignore[list-item]
    assert (overlay == BOX_COLOUR).all(axis=-1).any()


def test_an_empty_mask_changes_nothing() -> None:
    pixels = grey_image()
    overlay = draw_overlay(pixels, [np.zeros(pixels.shape, bool)])
    assert np.array_equal(overlay[..., 1], pixels)


def test_a_mask_of_another_size_is_an_error() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        draw_overlay(grey_image(), [disc(91)])


def test_sixteen_bits_are_windowed_and_eight_bits_are_not() -> None:
    narrow = (grey_image().astype(np.uint16) + 1000).astype(np.uint16)
    shown = window_for_display(narrow)
    assert shown.dtype == np.uint8
    assert (shown.min(), shown.max()) == (0, 255)
    assert np.array_equal(np.argsort(shown[0]), np.argsort(narrow[0])) or np.all(
        np.diff(shown[0][np.argsort(narrow[0], kind="stable")].astype(int)) >= 0
    )
    assert window_for_display(grey_image()) is not None
    assert np.array_equal(window_for_display(grey_image()), grey_image())
    assert len(np.unique(window_for_display(np.full((9, 9), 777, np.uint16)))) == 1


def test_an_overlay_of_one_megapixel_is_fast() -> None:
    """50 ms of processor time; the limit is wide so that only a blunder trips it."""
    rows, columns = np.mgrid[0:1024, 0:1024]
    pixels = ((rows + columns) // 8).astype(np.uint8)
    mask = (rows - 500) ** 2 + (columns - 500) ** 2 < 350**2
    times_s = []
    for _ in range(5):
        started = time.process_time()
        png = encode_png(overlay_colours(pixels, [mask], [(100.0, 100.0, 900.0, 900.0)]))
        times_s.append(time.process_time() - started)
    assert opened(png).size == (1024, 1024)
    assert min(times_s) < 0.3


@pytest.mark.parametrize("width", [1, 2, 3, 7])
def test_the_contour_is_a_box_blur_worked_out_where_it_matters(width: int) -> None:
    """Opacities equal those of blurring the whole mask, pixel by pixel."""
    generator = np.random.default_rng(width)
    coarse = Image.fromarray(generator.integers(0, 256, (9, 7), dtype=np.uint8))
    mask = np.asarray(coarse.resize((150, 190), Image.Resampling.BICUBIC)) > 110
    bordered = Image.fromarray(np.pad(mask, width + 1).astype(np.uint8) * np.uint8(255))
    inner = slice(width + 1, -width - 1)
    near = np.asarray(bordered.filter(ImageFilter.BoxBlur(width)))[inner, inner].astype(float)
    wanted = np.clip(np.rint(255 * (255 - near) / (255 / (2 * width + 1) - 1)), 0, 255) * mask
    found = np.zeros_like(wanted)
    rows, columns, opacity = contour_of(mask, width)
    found[rows, columns] = opacity
    assert np.array_equal(found, wanted) and opacity.max() == 255


def test_the_contour_of_nothing_is_nothing() -> None:
    """An empty mask, and one that is smaller than its contour."""
    assert contour_of(np.zeros((0, 0), bool), 2)[0].size == 0
    assert contour_of(np.ones((1, 1), bool), 2)[2].tolist() == [255]
