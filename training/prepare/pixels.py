"""Decoding X-rays and masks of any owner, and bringing both to the size that is stored."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model_store.geometry import InputGeometry, window_to_uint8

ASPECT_TOLERANCE = 0.02
"""A mask may have another size than its X-ray (299 and 256 pixels in one source), but when the
ratios of their sides differ by more than this share it belongs to another picture."""


class PixelError(ValueError):
    """A file cannot be used; the message is the reason without the file's name."""


def open_image(path: Path) -> Image.Image:
    """Decode an image file whole.

    Raises:
        PixelError: It is missing, damaged, too large or no image.
    """
    try:
        with Image.open(path) as file:
            file.load()
            return file.copy()
    # Pillow raises SyntaxError for broken PNG chunks.
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise PixelError(f"cannot be read: {error}") from error


def read_grey(path: Path) -> NDArray[np.integer]:
    """Decode an X-ray.

    Returns:
        uint8 or, of files with more than 8 bits, uint16, (H, W).

    Raises:
        PixelError: It cannot be decoded, or is all of one grey.
    """
    image = open_image(path)
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535 or image.mode == "F":
            raise PixelError(f"grey values of mode {image.mode} do not fit 16 bits")
        grey: NDArray[np.integer] = values.astype(np.uint16)
    else:
        grey = np.asarray(image.convert("L"))
    if grey.min() == grey.max():
        raise PixelError(f"is all of one grey, {grey.min()}")
    return grey


def read_mask(paths: Sequence[Path]) -> NDArray[np.bool_]:
    """Decode the union of masks of one size, bool (H, W); bright means inside.

    Raises:
        PixelError: One cannot be decoded, or their sizes differ.
    """
    masks = [np.asarray(open_image(path).convert("L")) for path in paths]
    sizes = sorted({mask.shape for mask in masks})
    if len(sizes) > 1:
        raise PixelError(f"its parts differ in size: {sizes[0]} and {sizes[1]} (rows, columns)")
    inside = [mask > mask.max() // 2 for mask in masks]  # 0 and 1, or 0 and 255
    union: NDArray[np.bool_] = np.logical_or.reduce(inside)
    return union


def stored_size(width: int, height: int, longest_side: int) -> tuple[int, int]:
    """Return the width and height that are stored: scaled down to ``longest_side``, never up."""
    if max(width, height) <= longest_side:
        return width, height
    geometry = InputGeometry(width, height, longest_side)
    return geometry.resized_width, geometry.resized_height


def stored_depth(picture: NDArray[np.integer], longest_side: int) -> NDArray[np.uint16]:
    """Bring an X-ray of 16 bits to its stored size, every level kept, uint16 (h, w)."""
    height, width = picture.shape
    size = stored_size(width, height, longest_side)
    deep = picture.astype(np.uint16)
    if size == (width, height):
        return deep
    return np.asarray(cv2.resize(deep, size, interpolation=cv2.INTER_AREA), np.uint16)


def to_stored(
    picture: NDArray[np.integer], mask: NDArray[np.bool_], longest_side: int
) -> tuple[Image.Image, Image.Image]:
    """Bring an X-ray and its mask to the same stored size.

    More than 8 bits are windowed as serving windows them; 8 bits stay as they are.

    Args:
        picture: Grey values, uint8 or uint16 (H, W).
        mask: The mask at its own size, bool (h, w).
        longest_side: Longest side that is stored, in pixels.

    Returns:
        The X-ray (mode L) and the mask (mode L, 0 or 255), of one size.

    Raises:
        PixelError: The two have different shapes.
    """
    height, width = picture.shape
    rows, columns = mask.shape
    if abs((columns * height) / (rows * width) - 1.0) > ASPECT_TOLERANCE:
        raise PixelError(
            f"the mask is {columns} x {rows} pixels, the X-ray {width} x {height}: other shapes"
        )
    grey = picture if picture.dtype == np.uint8 else window_to_uint8(picture)
    size = stored_size(width, height, longest_side)
    image = Image.fromarray(np.asarray(grey, dtype=np.uint8))
    drawn = Image.fromarray(mask.astype(np.uint8) * 255)
    if image.size != size:
        image = image.resize(size, Image.Resampling.BILINEAR)
    if drawn.size != size:
        drawn = drawn.resize(size, Image.Resampling.BILINEAR)
    return image, drawn.point(lambda value: 255 if value >= 128 else 0)
