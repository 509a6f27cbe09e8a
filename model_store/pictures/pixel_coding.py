"""How a picture's pixels are stored, known after its header is read and before it is decoded.

The caller gets coding and size before decoding begins, and may refuse by raising.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum


class PixelCoding(StrEnum):
    """Ways of storing pixels, as far as the cost of decoding them differs."""

    NATIVE = "native"
    DEFLATE = "deflate"
    RLE = "rle"
    JPEG = "jpeg"
    JPEG_SCANS = "jpeg_scans"
    """With more scans than encoders write: each passes over all pixels again."""

    JPEG_LOSSLESS = "jpeg_lossless"
    JPEG_LS = "jpeg_ls"
    JPEG_2000 = "jpeg_2000"


BeforeDecoding = Callable[[PixelCoding, int], None]
"""Told the coding and the number of pixels; what it raises ends the reading."""


def accept_any(coding: PixelCoding, pixels: int) -> None:
    """Let everything be decoded."""
