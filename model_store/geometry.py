"""Where a pixel of an X-ray lies in the model's input, and back: images, boxes and masks.

Training and serving share this module, so a mask cannot shift between them. An X-ray is scaled so
that its longest side fills the square input and padded at the right and the bottom. All image
arithmetic is integer (a histogram window through a lookup table, then Pillow's fixed-point resize),
so the input has the same bytes on every machine; a test compares it with a golden file.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model_store.boxes import Box as Box
from model_store.boxes import BoxError as BoxError
from model_store.boxes import validate_box as validate_box
from model_store.grey_levels import grey_histogram, replace_levels

PREPROCESSING_VERSION = 1
"""Increases when the model's input for the same X-ray changes; stored in each manifest."""

WINDOW_PERCENTILES = (0.5, 99.5)
"""Grey values outside these percentiles are clipped. Otherwise burnt-in letters and unexposed
borders would squeeze a low-contrast X-ray into a few grey levels."""


def window_to_uint8(
    image: NDArray[np.integer], histogram: NDArray[np.int64] | None = None
) -> NDArray[np.uint8]:
    """Stretch grey values between two percentiles to 0..255.

    Args:
        image: Grey values, uint8 or uint16, (H, W).
        histogram: Its `grey_histogram`, if it is already known.

    Returns:
        uint8 (H, W); a constant image becomes all 0.

    Raises:
        ValueError: Another dtype or number of dimensions.
    """
    counts = grey_histogram(image) if histogram is None else histogram
    return replace_levels(image, _window_table(counts))


def windowed_mean(histogram: NDArray[np.int64]) -> float:
    """Return the mean of the grey values that `window_to_uint8` makes of an X-ray, 0..255.

    Args:
        histogram: Its `grey_histogram`.
    """
    return float(np.dot(_window_table(histogram).astype(np.int64), histogram) / histogram.sum())


def _window_table(counts: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return the new value of each grey value, from a histogram."""
    cumulative = np.cumsum(counts)
    total = int(cumulative[-1])
    low, high = (
        int(np.searchsorted(cumulative, total * percent / 100.0)) for percent in WINDOW_PERCENTILES
    )
    if high <= low:  # nearly constant: use the full range, if there is one
        present = np.flatnonzero(counts)
        low, high = int(present[0]), int(present[-1])
    span = max(high - low, 1)
    levels_seen = np.clip(np.arange(counts.size, dtype=np.int64) - low, 0, span)
    table: NDArray[np.uint8] = ((levels_seen * 255 + span // 2) // span).astype(np.uint8)
    return table


@dataclass(frozen=True)
class InputGeometry:
    """How one image of ``width`` x ``height`` pixels lies in a square input.

    Attributes:
        width: Width of the image, in pixels.
        height: Height of the image, in pixels.
        input_size: Side of the model's input, in pixels.
    """

    width: int
    height: int
    input_size: int

    @property
    def resized_width(self) -> int:
        """Width of the scaled image inside the input, in pixels."""
        return max(1, round(self.width * self.input_size / max(self.width, self.height)))

    @property
    def resized_height(self) -> int:
        """Height of the scaled image inside the input, in pixels."""
        return max(1, round(self.height * self.input_size / max(self.width, self.height)))

    def image_to_input(self, windowed: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Scale an image (H, W) and pad it with 0 to (S, S); antialiased, integer arithmetic."""
        resized = Image.fromarray(windowed).resize(
            (self.resized_width, self.resized_height), Image.Resampling.BILINEAR
        )
        padded = np.zeros((self.input_size, self.input_size), dtype=np.uint8)
        padded[: self.resized_height, : self.resized_width] = np.asarray(resized)
        return padded

    def valid_region(self) -> NDArray[np.uint8]:
        """Return (S, S) with 1 where the image is and 0 where the input is padding."""
        valid = np.zeros((self.input_size, self.input_size), dtype=np.uint8)
        valid[: self.resized_height, : self.resized_width] = 1
        return valid

    def look_up(
        self, pixels: NDArray[np.uint8], levels: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Turn pixels (S, S) of the input into floats (C, S, S), 0 where it is padding.

        Args:
            pixels: From `image_to_input`.
            levels: New value of each grey value in each channel, (C, 256).
        """
        found = np.empty((levels.shape[0], *pixels.shape), np.float32)
        for channel, table in zip(found, levels, strict=True):
            np.take(table, pixels, out=channel, mode="clip")
        found[:, self.resized_height :] = 0.0
        found[:, :, self.resized_width :] = 0.0
        return found

    def box_to_input(self, box: Box) -> Box:
        """Move a box from image pixels to input pixels."""
        sx, sy = self.resized_width / self.width, self.resized_height / self.height
        return (box[0] * sx, box[1] * sy, box[2] * sx, box[3] * sy)
