"""Masks as files, and the overlay that a person looks at.

The overlay keeps the X-ray at full resolution: outside the masks (and the thin box lines) an
8-bit image's grey values come out unchanged. Inside, the tint keeps each pixel's brightness and
only moves its colour, so that vessels and opacities read as before; a flat translucent colour
would lower their contrast by its opacity. The contour lies on the mask's own outermost pixels
and fades inwards: its outer edge is exactly the mask's edge.

Everything runs in Pillow's C loops on bytes. Measured for a 1024 x 1024 overlay on one core: 14 ms
to draw, 8 ms to write as PNG.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter
from pycocotools import mask as coco_mask

from model_store.boxes import Box
from service.answers.png_encoding import encode_png

Mask = NDArray[np.bool_]
Colour = tuple[int, int, int]

MASK_COLOURS: tuple[Colour, ...] = ((0, 190, 255), (255, 190, 40), (205, 110, 255), (90, 220, 90))
"""Contour colours of the first, second, ... mask; they repeat. Blue and amber come first because
they stay apart for colour-blind readers."""
BOX_COLOUR: Colour = (255, 110, 30)
"""Deep orange shows on white as well as on black; yellow was lost on over-exposed chests."""
TINT_STRENGTH = 0.18
"""How far a grey value moves towards the mask's hue, 0..1."""
DISPLAY_PERCENTILES = (0.1, 99.9)
"""Grey values of a 16-bit image between these are spread over the 8 bits of a display."""

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def encode_mask_png(mask: Mask) -> bytes:
    """Returns a mask as an 8-bit, one-channel PNG of 0 and 255.

    Args:
        mask: (H, W) bool.
    """
    return encode_png(mask.astype(np.uint8) * np.uint8(255))


def encode_rle(mask: Mask) -> dict[str, Any]:
    """Returns a mask in COCO's compressed run-length form.

    Args:
        mask: (H, W) bool.

    Returns:
        `{"size": [H, W], "counts": str}`, as `pycocotools.mask.decode` reads it.
    """
    # COCO runs go down columns.
    encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    counts = encoded["counts"]
    text = counts.decode("ascii") if isinstance(counts, bytes) else counts
    return {"size": [int(side) for side in encoded["size"]], "counts": text}


def encode_overlay_png(
    pixels: NDArray[Any], masks: Sequence[Mask], boxes: Sequence[Box] = ()
) -> bytes:
    """Returns `draw_overlay` as an RGB PNG; the arguments are the same."""
    return encode_png(draw_overlay(pixels, masks, boxes))


def draw_overlay(
    pixels: NDArray[Any], masks: Sequence[Mask], boxes: Sequence[Box] = ()
) -> NDArray[np.uint8]:
    """Draws masks and boxes over an X-ray.

    Args:
        pixels: (H, W) uint8 or uint16; 16 bits are windowed for display, 8 bits are not touched.
        masks: (H, W) bool each; later ones lie on top.
        boxes: the boxes the caller sent, half-open pixels; none for the whole image.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ValueError: a mask has another shape than the image.
    """
    return np.asarray(_overlay_image(pixels, masks, boxes))


def window_for_display(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """Returns 8-bit grey values to look at.

    Args:
        pixels: (H, W) uint8, returned as they are, or uint16, spread linearly between
            `DISPLAY_PERCENTILES` of their histogram and clipped.
    """
    if pixels.dtype == np.uint8:
        return pixels
    counts = np.bincount(pixels.ravel(), minlength=65536)
    cumulative = np.cumsum(counts)
    low, high = (
        int(np.searchsorted(cumulative, share / 100 * pixels.size)) for share in DISPLAY_PERCENTILES
    )
    if high <= low:
        low, high = int(pixels.min()), max(int(pixels.max()), int(pixels.min()) + 1)
    levels = (np.arange(65536, dtype=np.float32) - low) * (255.0 / (high - low))
    table = np.clip(np.rint(levels), 0, 255).astype(np.uint8)
    windowed: NDArray[np.uint8] = table[pixels]
    return windowed


def _overlay_image(
    pixels: NDArray[Any], masks: Sequence[Mask], boxes: Sequence[Box]
) -> Image.Image:
    grey = Image.fromarray(window_for_display(pixels))
    canvas = grey.convert("RGB")
    for index, mask in enumerate(masks):
        if mask.shape != pixels.shape:
            raise ValueError(f"mask {mask.shape} and image {pixels.shape} differ in shape")
        _draw_mask(canvas, grey, mask, MASK_COLOURS[index % len(MASK_COLOURS)])
    for box in boxes:
        _draw_box(canvas, box)
    return canvas


def _draw_mask(canvas: Image.Image, grey: Image.Image, mask: Mask, colour: Colour) -> None:
    """Tints the mask and draws its contour, working on the mask's bounding rectangle alone."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        return
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    left, right = int(columns[0]), int(columns[-1]) + 1
    window = (left, top, right, bottom)
    coverage = Image.fromarray(mask[top:bottom, left:right].astype(np.uint8) * np.uint8(255))
    tables = _tint_tables(colour)
    part = grey.crop(window)
    tinted = Image.merge("RGB", [part.point(table) for table in tables])
    canvas.paste(tinted, (left, top), mask=coverage)
    contour = _contour_opacity(coverage, _line_width(canvas.size, pixels_per_step=560))
    canvas.paste(colour, window, mask=contour)


def _tint_tables(colour: Colour) -> list[list[int]]:
    """Returns one lookup table per channel that adds a hue and keeps the luma of a grey value.

    The hue offset shrinks towards black and white, where there is no room for it: a clipped
    channel would change the brightness.
    """
    luma = sum(weight * channel for weight, channel in zip(_LUMA, colour, strict=True))
    offsets = [TINT_STRENGTH * (channel - luma) for channel in colour]
    lowest, highest = min(offsets), max(offsets)
    tables: list[list[int]] = [[], [], []]
    for value in range(256):
        room = min(1.0, value / -lowest, (255 - value) / highest)
        for table, offset in zip(tables, offsets, strict=True):
            table.append(round(value + room * offset))
    return tables


def _contour_opacity(coverage: Image.Image, width: int) -> Image.Image:
    """Returns 0..255: full on the mask's outer `width` pixels, fading over one pixel inwards.

    A box average over (2r+1)^2 pixels tells how near the edge a mask pixel is: on a straight edge
    the outermost pixel sees (r+1)/(2r+1) of it covered and the r-th from it all.
    """
    bordered = Image.new("L", (coverage.width + 2 * width + 2, coverage.height + 2 * width + 2))
    bordered.paste(coverage, (width + 1, width + 1))
    near = bordered.filter(ImageFilter.BoxBlur(width))
    near = near.crop(
        (width + 1, width + 1, width + 1 + coverage.width, width + 1 + coverage.height)
    )
    step = 255 / (2 * width + 1) - 1  # less one for the rounding of the average to a byte
    opacity = near.point([_clip_byte(255 * (255 - value) / step) for value in range(256)])
    outside_is_clear = Image.new("L", coverage.size)
    outside_is_clear.paste(opacity, mask=coverage)
    return outside_is_clear


def _draw_box(canvas: Image.Image, box: Box) -> None:
    x0, y0, x1, y1 = box
    last_x, last_y = int(np.ceil(x1)) - 1, int(np.ceil(y1)) - 1  # half-open: x1 itself is outside
    width = _line_width(canvas.size, pixels_per_step=1400)
    ImageDraw.Draw(canvas).rectangle((int(x0), int(y0), last_x, last_y), None, BOX_COLOUR, width)


def _line_width(size: tuple[int, int], pixels_per_step: int) -> int:
    return max(1, round(min(size) / pixels_per_step))


def _clip_byte(value: float) -> int:
    return max(0, min(255, round(value)))
