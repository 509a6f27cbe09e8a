"""Decode X-rays and masks of any source, and scale both to the stored size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model_store.geometry import InputGeometry, window_to_uint8
from model_store.pictures import mask_reading as pictures
from model_store.pictures.picture_errors import PictureError
from model_store.pictures.picture_reading import read_picture

MOST_PIXELS = 100_000_000
"""Most pixels, more than any X-ray has; a file that claims more is damaged or not an X-ray."""

ASPECT_TOLERANCE = 0.02
"""A mask may have another size than its X-ray (299 and 256 pixels in one source), but when the
ratios of their sides differ by more than this share it belongs to another picture."""


class PixelError(ValueError):
    """A file cannot be used; the message is the reason without the file's name."""


def read_grey(path: Path) -> NDArray[np.integer]:
    """Decode an X-ray as the service does, upright.

    Returns:
        uint8 or, of files with more than 8 bits, uint16, (H, W), bright where dense.

    Raises:
        PixelError: It cannot be decoded, or has a single grey value.
    """
    try:
        grey: NDArray[np.integer] = read_picture(_bytes_of(path), max_pixels=MOST_PIXELS).upright
    except PictureError as error:
        raise PixelError(f"cannot be read: {error.detail}") from error
    if grey.min() == grey.max():
        raise PixelError(f"is all of one grey, {grey.min()}")
    return grey


def read_mask(paths: Sequence[Path], threshold: float | None = None) -> NDArray[np.bool_]:
    """Decode the union of masks of one size, bool (H, W); the higher of two levels is inside.

    Args:
        paths: The files; one of several may be empty.
        threshold: For soft masks, the least share of the highest value of an inside pixel.

    Raises:
        PixelError: One cannot be decoded or is not a mask, or their sizes differ.
    """
    try:
        masks = [
            pictures.read_mask(_bytes_of(path), threshold=threshold, may_be_empty=True)
            for path in paths
        ]
    except PictureError as error:
        raise PixelError(f"cannot be read: {error.detail}") from error
    sizes = sorted({mask.shape for mask in masks})
    if len(sizes) > 1:
        raise PixelError(f"its parts differ in size: {sizes[0]} and {sizes[1]} (rows, columns)")
    union: NDArray[np.bool_] = np.logical_or.reduce(masks)
    return union


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise PixelError(f"cannot be read: {error.strerror}") from error


def stored_size(width: int, height: int, longest_side: int) -> tuple[int, int]:
    """Return the stored width and height: scaled down to ``longest_side``, never up."""
    if max(width, height) <= longest_side:
        return width, height
    geometry = InputGeometry(width, height, longest_side)
    return geometry.resized_width, geometry.resized_height


def stored_depth(picture: NDArray[np.integer], longest_side: int) -> NDArray[np.uint16]:
    """Scale an X-ray of 16 bits to its stored size with all its levels, uint16 (h, w)."""
    height, width = picture.shape
    size = stored_size(width, height, longest_side)
    deep = picture.astype(np.uint16)
    if size == (width, height):
        return deep
    return np.asarray(cv2.resize(deep, size, interpolation=cv2.INTER_AREA), np.uint16)


def to_stored(
    picture: NDArray[np.integer], mask: NDArray[np.bool_], longest_side: int
) -> tuple[Image.Image, Image.Image]:
    """Scale an X-ray and its mask to the same stored size.

    More than 8 bits are windowed as in serving; 8 bits stay unchanged.

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
