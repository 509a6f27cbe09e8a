"""The width and height that a JPEG-family codestream claims for itself, and where its pixels begin.

Inside DICOM the header's rows and columns and the codestream's own size are two claims. A
decoder believes the second, so a small header around a huge codestream would pass the pixel
limit and still fill the memory. Reading the codestream's size costs microseconds.

Formats: ITU-T T.81 annex B (JPEG, and T.87 for JPEG-LS, which shares its markers) and
ITU-T T.800 annex A (JPEG 2000).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

_START_OF_FRAME = frozenset(
    # SOF0..SOF15 without DHT (C4), JPG (C8) and DAC (CC); F7 is SOF55 of JPEG-LS.
    [marker for marker in range(0xC0, 0xD0) if marker not in (0xC4, 0xC8, 0xCC)] + [0xF7]
)
_START_OF_SCAN = 0xDA
_STANDALONE = frozenset([0x01, *range(0xD0, 0xD9)])
_JPEG_2000_START = b"\xff\x4f\xff\x51"


def read_codestream_size(codestream: bytes) -> tuple[int, int]:
    """Returns (width, height) in pixels, from the frame header.

    Args:
        codestream: a JPEG, JPEG-LS or JPEG 2000 codestream (without a JP2 file wrapper).

    Raises:
        ValueError: no frame header was found.
    """
    if codestream.startswith(_JPEG_2000_START):
        return _jpeg_2000_size(codestream)
    if codestream.startswith(b"\xff\xd8"):
        return _jpeg_size(codestream)
    raise ValueError("not a JPEG, JPEG-LS or JPEG 2000 codestream")


def _jpeg_2000_size(codestream: bytes) -> tuple[int, int]:
    # SOC (2 bytes), SIZ marker, Lsiz, Rsiz (2 each), then Xsiz, Ysiz, XOsiz, YOsiz (4 each).
    if len(codestream) < 24:
        raise ValueError("the codestream ends inside its header")
    right, bottom, left, top = struct.unpack_from(">IIII", codestream, 8)
    return right - left, bottom - top


def find_first_scan(codestream: bytes) -> int:
    """Returns where the first scan of a JPEG begins, behind its tables and any thumbnail.

    Raises:
        ValueError: no scan was found.
    """
    for marker, position in _jpeg_markers(codestream):
        if marker == _START_OF_SCAN:
            return position
    raise ValueError("the codestream has no scan")


def _jpeg_size(codestream: bytes) -> tuple[int, int]:
    for marker, position in _jpeg_markers(codestream):
        if marker in _START_OF_FRAME:
            height, width = struct.unpack_from(">HH", codestream, position + 5)
            return width, height
    raise ValueError("the codestream has no frame header")


def _jpeg_markers(codestream: bytes) -> Iterator[tuple[int, int]]:
    """Yields (marker, position) of each segment up to the first scan.

    Raises:
        ValueError: something else stands where a marker belongs.
    """
    position = 2
    while position + 9 <= len(codestream):
        if codestream[position] != 0xFF:
            raise ValueError("a marker was expected")
        marker = codestream[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
        elif marker in _STANDALONE:
            position += 2
        else:
            yield marker, position
            if marker == _START_OF_SCAN:
                return
            (length,) = struct.unpack_from(">H", codestream, position + 2)
            position += 2 + length
