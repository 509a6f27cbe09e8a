"""The coding of a picture's pixels, read from its header before decoding.

The caller gets coding and size before decoding begins, and may refuse by raising.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum


class PixelCoding(StrEnum):
    """Codings of pixels that differ in the cost of decoding."""

    NATIVE = "native"
    DEFLATE = "deflate"
    RLE = "rle"
    JPEG = "jpeg"
    JPEG_SCANS = "jpeg_scans"
    """More scans than encoders write; each passes over all pixels again."""

    JPEG_LOSSLESS = "jpeg_lossless"
    JPEG_LS = "jpeg_ls"
    JPEG_2000 = "jpeg_2000"


BeforeDecoding = Callable[[PixelCoding, int], None]
"""Called with the coding and the number of pixels; an exception ends the reading."""


def accept_any(coding: PixelCoding, pixels: int) -> None:
    """Accept everything."""
