"""Small PNG, JPEG and TIFF files for tests, some of them written by hand."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model_store.pictures.png_chunks import png_chunk

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def ramp(height: int = 48, width: int = 64) -> NDArray[np.uint8]:
    """An image whose every turn and mirror image differs."""
    rows, columns = np.mgrid[0:height, 0:width]
    return (rows * 3 + columns).astype(np.uint8)  # (H, W)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_with(
    colour_type: int, depth: int, rows: NDArray[np.generic], width: int, filter_type: int = 0
) -> bytes:
    """Writes a PNG by hand; `rows` holds the bytes of each row, unfiltered."""
    raw = b"".join(bytes([filter_type]) + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, len(rows), depth, colour_type, 0, 0, 0)
    return (
        SIGNATURE
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", zlib.compress(raw))
        + png_chunk(b"IEND", b"")
    )


def hand_made_tiff(
    pixels: NDArray[np.uint16],
    photometric: int,
    big_endian: bool = False,
    sample_format: int = 1,
    extra_tags: tuple[tuple[int, int], ...] = (),
) -> bytes:
    order = ">" if big_endian else "<"
    height, width = pixels.shape
    strip = pixels.astype(f"{order}u2").tobytes()
    tags = [
        (256, width),
        (257, height),
        (258, 16),
        (259, 1),
        (262, photometric),
        (273, 8),
        (277, 1),
        (278, height),
        (279, len(strip)),
        *extra_tags,
        (339, sample_format),
    ]
    head = (b"MM\x00*" if big_endian else b"II*\x00") + struct.pack(order + "I", 8 + len(strip))
    directory = struct.pack(order + "H", len(tags))
    for tag, value in tags:
        directory += struct.pack(order + "HHII", tag, 4, 1, value)
    return head + strip + directory + struct.pack(order + "I", 0)
