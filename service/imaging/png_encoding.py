"""Write PNG files several times as fast as Pillow, for the answers of the service.

Pillow tries all five row filters on every row. One fixed filter, the difference to the row above,
takes one subtraction in numpy and compresses X-rays as well; Intel's ISA-L deflates, on any
processor. `python -m benchmarks.service.png_libraries` compares it with other libraries. A large
picture is written in parts, which as many threads deflate at once as cores are idle. The file is
the same bytes however they are run.

Formats: PNG specification, third edition (W3C), sections 5 (chunks), 9 (filters), 11 (header); zlib
and its checksum Adler-32: RFC 1950.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray
from PIL import Image

from model_store.pictures.png_chunks import PNG_SIGNATURE, PngHeader, png_chunk
from service.imaging.side_threads import side_threads

_FILTER_UP = 2
_COMPRESS_LEVEL = 1
_GREY, _RGB = 0, 2  # PNG colour types
_ZLIB_HEADER = b"\x78\x01"
_RAW_DEFLATE = -15  # `wbits` without zlib's header and checksum, window of 32 kB
_ADLER_MODULUS = 65521

PARTS = 4
PARTS_FROM_BYTES = 2_000_000
"""Pictures with this many bytes of pixels are written in `PARTS` parts."""

Pixels = NDArray[np.uint8] | NDArray[np.uint32]


def encode_png(pixels: Pixels) -> bytes:
    """Return an 8-bit PNG file.

    Args:
        pixels: (H, W) uint8 for grey, (H, W, 3) uint8 for RGB, or (H, W) uint32 for RGB with red
            in the lowest byte and nothing in the highest (Pillow's RGBX).

    Raises:
        ValueError: another dtype or shape.
    """
    header = PngHeader(pixels.shape[1], pixels.shape[0], 8, _colour_type(pixels), 0, 0, 0)
    parts = side_threads().each(
        [
            functools.partial(_part, pixels, first, end)
            for first, end in itertools.pairwise(_borders(header))
        ]
    )
    checksum = 1
    for part in parts:
        checksum = _joined_adler(checksum, part.adler, part.plain_bytes)
    return b"".join(
        (
            PNG_SIGNATURE,
            png_chunk(b"IHDR", header.pack()),
            *(part.chunk for part in parts),
            png_chunk(b"IDAT", checksum.to_bytes(4, "big")),
            png_chunk(b"IEND", b""),
        )
    )


def rgb_of(colours: NDArray[np.uint32]) -> NDArray[np.uint8]:
    """Return (H, W, 3) uint8 from (H, W) RGBX colours."""
    height, width = colours.shape
    packed = Image.frombuffer("RGBX", (width, height), colours, "raw", "RGBX", 0, 1)
    return np.frombuffer(packed.tobytes("raw", "RGB"), np.uint8).reshape(height, width, 3)


def _borders(header: PngHeader) -> list[int]:
    """Return the first row of each part, and the height."""
    count = PARTS if (header.pixel_data_bytes or 0) >= PARTS_FROM_BYTES else 1
    return sorted({header.height * number // count for number in range(count + 1)})


def _colour_type(pixels: Pixels) -> int:
    if pixels.ndim == 2 and pixels.dtype == np.uint8:
        return _GREY
    is_rgb = pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.dtype == np.uint8
    if is_rgb or (pixels.ndim == 2 and pixels.dtype == np.uint32):
        return _RGB
    raise ValueError(f"cannot write {pixels.dtype} {pixels.shape} as PNG")


@dataclass(frozen=True)
class _Part:
    """Deflated rows: a chunk, and the data for the checksum over all rows."""

    chunk: bytes
    adler: int
    plain_bytes: int


def _part(pixels: Pixels, first: int, end: int) -> _Part:
    """Deflate the rows from `first` on, `end` excluded; the last part ends the stream."""
    rows = _filtered_up(pixels, first, end).data
    deflater: Any = isal_zlib.compressobj(_COMPRESS_LEVEL, isal_zlib.DEFLATED, _RAW_DEFLATE)
    is_last = end == pixels.shape[0]
    ending = isal_zlib.Z_FINISH if is_last else isal_zlib.Z_FULL_FLUSH
    pieces = [b"" if first else _ZLIB_HEADER, deflater.compress(rows), deflater.flush(ending)]
    return _Part(png_chunk(b"IDAT", b"".join(pieces)), isal_zlib.adler32(rows), rows.nbytes)


def _filtered_up(pixels: Pixels, first: int, end: int) -> NDArray[np.uint8]:
    """Return (rows, 1 + row bytes): the filter's number, then each row minus the row above."""
    above = max(0, first - 1)
    rows = _bytes_of(pixels[above:end]).reshape(end - above, -1)
    filtered = np.empty((end - first, rows.shape[1] + 1), dtype=np.uint8)
    filtered[:, 0] = _FILTER_UP
    changes = filtered[:, 1:]
    if first == 0:
        changes[0] = rows[0]
        changes = changes[1:]
    np.subtract(rows[1:], rows[:-1], out=changes)  # modulo 256, as PNG requires
    return filtered


def _bytes_of(pixels: Pixels) -> NDArray[np.uint8]:
    return rgb_of(pixels.view(np.uint32)) if pixels.dtype == np.uint32 else pixels.view(np.uint8)


def _joined_adler(before: int, after: int, after_bytes: int) -> int:
    """Return the Adler-32 of two concatenated byte strings from those of each (RFC 1950, 8.2)."""
    low = ((before & 0xFFFF) + (after & 0xFFFF) - 1) % _ADLER_MODULUS
    shift = after_bytes * ((before & 0xFFFF) - 1)
    high = ((before >> 16) + (after >> 16) + shift) % _ADLER_MODULUS
    return high << 16 | low
