"""The header of a JPEG-family codestream, read before it is decoded.

In DICOM both the header and the codestream state a size. A decoder uses the codestream's, so a
small header around a huge codestream would pass the pixel limit and still fill the memory. A
codestream also states which codec it needs, whatever the file's name, and whether it is complete.
Reading its header takes microseconds.

Formats: ITU-T T.81 annex B (JPEG), T.87 annex C (JPEG-LS, which shares its markers), T.800 annex
A (JPEG 2000) and I (its boxes).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from model_store.pictures.picture_errors import UnsupportedPictureError
from model_store.pictures.pixel_coding import PixelCoding

_START_OF_SCAN = 0xDA
_STANDALONE = frozenset([0x01, *range(0xD0, 0xD9)])
_JPEG_2000_START = b"\xff\x4f\xff\x51"
_JP2_SIGNATURE = b"\0\0\0\x0cjP  "


class Coding(Enum):
    """The codecs of the JPEG family, with their names."""

    JPEG = "JPEG"
    JPEG_LOSSLESS = "JPEG Lossless"
    JPEG_LS = "JPEG-LS"
    JPEG_2000 = "JPEG 2000"
    JPEG_ARITHMETIC = "JPEG with arithmetic coding"
    JPEG_HIERARCHICAL = "hierarchical JPEG"


_CODINGS = {
    **dict.fromkeys((0xC0, 0xC1, 0xC2), Coding.JPEG),
    0xC3: Coding.JPEG_LOSSLESS,
    **dict.fromkeys((0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF), Coding.JPEG_HIERARCHICAL),
    **dict.fromkeys((0xC9, 0xCA, 0xCB), Coding.JPEG_ARITHMETIC),
    0xF7: Coding.JPEG_LS,
}
"""By the marker of the frame header: SOF0 to SOF15 without DHT, JPG and DAC, and SOF55."""


_COSTS_AS = {
    Coding.JPEG: PixelCoding.JPEG,
    Coding.JPEG_LOSSLESS: PixelCoding.JPEG_LOSSLESS,
    Coding.JPEG_LS: PixelCoding.JPEG_LS,
}


@dataclass(frozen=True)
class CodestreamHeader:
    """The frame header of a codestream.

    Attributes:
        coding: the codec that it needs.
        width: width in pixels.
        height: height in pixels.
        components: samples per pixel.
        precision_bits: bits per sample.
    """

    coding: Coding
    width: int
    height: int
    components: int
    precision_bits: int

    @property
    def pixel_coding(self) -> PixelCoding:
        """The coding, for the cost of decoding; arithmetic coding costs as much as JPEG 2000."""
        return _COSTS_AS.get(self.coding, PixelCoding.JPEG_2000)


def read_codestream_header(codestream: bytes) -> CodestreamHeader:
    """Return the frame header.

    Args:
        codestream: a JPEG, JPEG-LS or JPEG 2000 codestream (without a JP2 file wrapper).

    Raises:
        UnsupportedPictureError: it does not state its height.
        ValueError: no frame header was found.
    """
    if codestream.startswith(_JPEG_2000_START):
        return _jpeg_2000_header(codestream)
    if codestream.startswith(b"\xff\xd8"):
        return _jpeg_header(codestream)
    raise ValueError("not a JPEG, JPEG-LS or JPEG 2000 codestream")


def unboxed(data: bytes) -> bytes:
    """Return the codestream of a JP2 file; anything else as it is.

    Raises:
        ValueError: the boxes hold no codestream.
    """
    if not data.startswith(_JP2_SIGNATURE):
        return data
    position = 0
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">L4s", data, position)
        head_bytes = 8
        if length == 1:  # the length follows, with 8 bytes
            (length,) = struct.unpack_from(">Q", data, position + 8)
            head_bytes = 16
        if kind == b"jp2c":
            return data[position + head_bytes : position + length if length else None]
        if length < head_bytes:
            break
        position += length
    raise ValueError("the JP2 file holds no codestream")


def find_first_scan(codestream: bytes) -> int:
    """Return the position of a JPEG's first scan, after its tables and any thumbnail.

    Raises:
        ValueError: no scan was found.
    """
    for marker, position in jpeg_segments(codestream):
        if marker == _START_OF_SCAN:
            return position
    raise ValueError("the codestream has no scan")


def jpeg_segments(codestream: bytes) -> Iterator[tuple[int, int]]:
    """Yield (marker, position) of each segment up to the first scan.

    Raises:
        ValueError: a marker is missing.
    """
    position = 2
    while position + 4 <= len(codestream):
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


def _jpeg_header(codestream: bytes) -> CodestreamHeader:
    for marker, position in jpeg_segments(codestream):
        if marker in _CODINGS and position + 10 <= len(codestream):
            precision, height, width, components = struct.unpack_from(
                ">BHHB", codestream, position + 4
            )
            if not height:
                raise UnsupportedPictureError(
                    "JPEG data that state their height behind the picture (DNL) are not read; "
                    "export the X-ray again."
                )
            return CodestreamHeader(_CODINGS[marker], width, height, components, precision)
    raise ValueError("the codestream has no frame header")


def _jpeg_2000_header(codestream: bytes) -> CodestreamHeader:
    # SOC (2 bytes), SIZ marker, Lsiz, Rsiz (2 each), then Xsiz, Ysiz, XOsiz, YOsiz, four of tiles
    # (4 each), Csiz (2) and a byte of precision and sign for each component.
    if len(codestream) < 43:
        raise ValueError("the codestream ends inside its header")
    right, bottom, left, top = struct.unpack_from(">IIII", codestream, 8)
    (components,) = struct.unpack_from(">H", codestream, 40)
    precision = (codestream[42] & 0x7F) + 1
    return CodestreamHeader(Coding.JPEG_2000, right - left, bottom - top, components, precision)
