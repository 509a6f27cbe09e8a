"""JPEG codestreams to pixels, with damage noticed.

A JPEG has no checksum. Where bytes are missing or changed, libjpeg notes a warning, fills what it
cannot read with grey, and goes on; most libraries drop the warnings, so that half an X-ray would
be segmented without a word.

* 8 bits: simplejpeg is the same libjpeg-turbo as Pillow's with the warnings as errors. Its pixels
  are equal (tested) and come in half the time.
* 12 bits and lossless: imagecodecs drops the warnings. The picture is decoded twice, the second
  time with other last bytes: where the data are whole, the last pixels differ and no others do.

A changed bit that still makes sense as a code is found by nobody.
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from io import BytesIO
from typing import Any

import imagecodecs
import numpy as np
import simplejpeg  # type: ignore[import-untyped]
from numpy.typing import NDArray
from PIL.JpegImagePlugin import JpegImageFile

from model_store.pictures.codestream_header import (
    CodestreamHeader,
    Coding,
    find_first_scan,
    jpeg_segments,
)
from model_store.pictures.picture_errors import UndecodablePictureError, UnsupportedPictureError
from model_store.pictures.pixel_coding import PixelCoding

USUAL_SCANS = 32
"""More than any encoder writes: about ten, and a few more in files that were made small."""

MOST_SCANS = 200
"""A progressive JPEG may repeat scans over all its pixels without end at a few bytes each; real
encoders write about ten."""
MOST_SCANNED_PIXELS = 800_000_000
"""Scans times pixels, 5 seconds of a slow core; ten scans of the largest X-ray are half of it."""

_END = b"\xff\xd9"
_DAMAGE = ("corrupt jpeg data", "premature end")
_LEFT_OVER = re.compile(r"(\d+) extraneous bytes before marker 0x([0-9a-f]{2})")
"""Bytes between a part of the picture and its end. Some encoders pad with zeros; where they are
anything else, the part ended too early, because codes before them were changed."""
_PADDING = re.compile(rb"(?<!\xff)(\x00+)(?=\xff[\x01-\xfe])")
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_APP14_ADOBE = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"  # then a byte: the transform
_MORE_BYTES = 4096  # behind the last codes, so that reading too far gives other pixels
_BLOCK_PIXELS = 64


def scans_in(data: bytes, start: int = 0, end: int | None = None) -> int:
    """Return how many scans a codestream has, or a part of a file that holds it."""
    return data.count(b"\xff\xda", start, end)  # entropy-coded bytes never hold FF DA


def jpeg_pixel_coding(codestream: bytes, header: CodestreamHeader) -> PixelCoding:
    """Return what decoding a codestream of the JPEG family costs.

    Args:
        codestream: the codestream.
        header: what it says of itself.
    """
    is_repeated = header.coding is not Coding.JPEG_2000 and scans_in(codestream) > USUAL_SCANS
    return PixelCoding.JPEG_SCANS if is_repeated else header.pixel_coding


def check_jpeg_scans(codestream: bytes, header: CodestreamHeader) -> None:
    """Refuse a JPEG whose scans would take more time than any X-ray's.

    Raises:
        UndecodablePictureError: it has implausibly many scans.
    """
    scans = scans_in(codestream)
    if scans > MOST_SCANS or scans * header.width * header.height > MOST_SCANNED_PIXELS:
        raise UndecodablePictureError("The JPEG data have implausibly many scans.")


def with_colour_transform(codestream: bytes, is_luma_chroma: bool) -> bytes:
    """Return a JPEG that says how its three components are coded, where it does not say so itself.

    Without a JFIF or Adobe segment a decoder guesses; TIFF and DICOM say it outside.
    """
    for marker, position in jpeg_segments(codestream):
        if marker == 0xE0 and codestream[position + 4 : position + 8] == b"JFIF":
            return codestream
        if marker == 0xEE and codestream[position + 4 : position + 9] == b"Adobe":
            return codestream
    return b"".join((codestream[:2], _APP14_ADOBE, bytes([is_luma_chroma]), codestream[2:]))


def read_jpeg(codestream: bytes, header: CodestreamHeader, channels: int) -> NDArray[Any]:
    """Decode a JPEG whose size was checked before.

    Args:
        codestream: the file, or a frame of a DICOM or TIFF file.
        header: what it says of itself.
        channels: 1 for grey (of a colour image its luminance), 3 for RGB.

    Returns:
        (H, W) for grey, else (H, W, 3); uint8, or uint16 above 8 bits.

    Raises:
        UndecodablePictureError: data are missing or damaged.
        UnsupportedPictureError: a kind of JPEG that is not read.
    """
    check_jpeg_scans(codestream, header)
    if header.coding in (Coding.JPEG, Coding.JPEG_ARITHMETIC) and header.precision_bits == 8:
        return read_jpeg_8_bit(codestream, channels)
    if header.coding not in (Coding.JPEG, Coding.JPEG_LOSSLESS, Coding.JPEG_LS):
        raise UnsupportedPictureError(
            f"{header.coding.value} with {header.precision_bits} bits is not read; send PNG, or "
            "DICOM without compression."
        )
    is_colour = header.components == 3 and header.precision_bits == 8 and channels == 3
    if header.components != 1 and not (is_colour and header.coding is not Coding.JPEG):
        raise UnsupportedPictureError(
            f"{header.coding.value} in colour is read as three channels of 8 bits alone; send grey."
        )
    if header.coding is Coding.JPEG_LS:
        return _read_jpeg_ls(codestream)
    return _read_and_compare(codestream, header)


def read_jpeg_8_bit(codestream: bytes, channels: int) -> NDArray[Any]:
    """Decode a JPEG of 8 bits; see `read_jpeg`.

    Raises:
        UndecodablePictureError: data are missing or damaged.
    """
    try:
        return _strict(codestream, channels)
    except ValueError as error:
        reason = str(error).lower()
    if not any(word in reason for word in _DAMAGE) or _is_padded_at_end(codestream, reason):
        return _read_by_pillow(codestream, channels)
    for candidate in _without_padding(codestream, reason):
        try:
            return _strict(candidate, channels)
        except ValueError:
            continue
    raise damaged_jpeg()


def damaged_jpeg() -> UndecodablePictureError:
    """Return the refusal of a JPEG of which a part is missing."""
    return UndecodablePictureError(
        "The JPEG data are damaged: a part of the picture is missing; send it again in full, or "
        "export it anew."
    )


def _strict(codestream: bytes, channels: int) -> NDArray[Any]:
    space = "GRAY" if channels == 1 else "RGB"
    pixels: NDArray[Any] = simplejpeg.decode_jpeg(codestream, space, strict=True)
    return pixels[..., 0] if channels == 1 else pixels


def _read_by_pillow(codestream: bytes, channels: int) -> NDArray[Any]:
    """Decode what simplejpeg does not take although nothing is missing, such as bytes behind."""
    image = JpegImageFile(BytesIO(codestream))
    image.load()
    return np.asarray(image.convert("L" if channels == 1 else "RGB"))


def _is_padded_at_end(codestream: bytes, reason: str) -> bool:
    """Judge at the picture's own end: thumbnails before it and trailers behind it have one too."""
    left_over = _LEFT_OVER.search(reason)
    if left_over is None or left_over[2] != "d9":
        return False
    try:
        end = codestream.index(_END, find_first_scan(codestream))
    except ValueError:
        return False
    return not codestream[max(0, end - int(left_over[1])) : end].strip(b"\x00\xff")


def _without_padding(codestream: bytes, reason: str) -> list[bytes]:
    """Return candidates without the zeros that an encoder put before markers.

    The last code of a part may end in a zero byte of its own: a length that is rarer than the one
    below it is taken for that. The other candidate has no zeros at all.
    """
    if _LEFT_OVER.search(reason) is None:
        return []
    try:
        start = find_first_scan(codestream)
    except ValueError:
        return []
    scans = codestream[start:]
    counts = Counter(len(run) for run in _PADDING.findall(scans))

    def own_zero(found: re.Match[bytes]) -> bytes:
        length = len(found[1])
        return b"\0" if counts[length - 1] > counts[length] else b""

    return [
        codestream[:start] + _PADDING.sub(own_zero, scans),
        codestream[:start] + _PADDING.sub(b"", scans),
    ]


def _read_jpeg_ls(codestream: bytes) -> NDArray[Any]:
    if not codestream.rstrip(b"\0").endswith(_END):
        raise damaged_jpeg()  # CharLS reads on behind the last byte, for 10 seconds or more
    try:
        return imagecodecs.jpegls_decode(codestream)
    except imagecodecs.JpeglsError:
        raise damaged_jpeg() from None


def _read_and_compare(codestream: bytes, header: CodestreamHeader) -> NDArray[Any]:
    """Decode again with other last bytes, to see how far the data were read."""
    end = codestream.rfind(_END)
    is_lossless = header.coding is Coding.JPEG_LOSSLESS
    if end < 0 or not _has_all_restarts(codestream[:end], header, 1 if is_lossless else 8):
        raise damaged_jpeg()
    try:
        pixels = imagecodecs.jpeg8_decode(codestream)
        differing, tail_bytes = _differing_pixels(codestream[:end], pixels)
    except imagecodecs.Jpeg8Error:
        raise damaged_jpeg() from None
    if not differing and pixels.min() == pixels.max():
        return pixels  # of one code only: any other bits mean the same
    # A lossless pixel takes one bit or more; a block two codes, of two bits or more mostly.
    most = 8 * tail_bytes + 8 if is_lossless else (2 * tail_bytes + 2) * _BLOCK_PIXELS
    if not 0 < differing <= most:
        raise damaged_jpeg()
    return pixels


def _differing_pixels(data: bytes, pixels: NDArray[Any]) -> tuple[int, int]:
    """Return how many pixels other last bytes change, and how many bytes were changed.

    A changed code can hide where pixels are clipped, and behind zeros that pad the end.
    """
    first = _start_of_codes(data)
    without_zeros = data[:first] + data[first:].rstrip(b"\0")
    for candidate, tail_bytes in ((data, 4), (data, 16), (data, 64), (without_zeros, 4)):
        other = imagecodecs.jpeg8_decode(_with_other_end(candidate, tail_bytes))
        differing = int(np.count_nonzero(pixels != other))
        if differing:
            break
    return differing, tail_bytes


def _start_of_codes(data: bytes) -> int:
    """Return where the codes of the last scan begin."""
    scan = data.rindex(b"\xff\xda")
    return scan + 2 + int.from_bytes(data[scan + 2 : scan + 4], "big")


def _with_other_end(data: bytes, tail_bytes: int) -> bytes:
    """Return a JPEG whose last codes are others, with more codes behind."""
    start = len(data) - tail_bytes
    markers = [found.end() for found in _RESTART.finditer(data, start - 2)]
    start = max([_start_of_codes(data), start, *markers])
    if data[start - 1] == 0xFF:  # between FF and its zero
        start += 1
    tail = bytes(byte ^ 0x55 for byte in data[start:]).replace(b"\xff", b"\xfe")
    return data[:start] + tail + b"\x2d" * _MORE_BYTES + _END


def _has_all_restarts(data: bytes, header: CodestreamHeader, unit_pixels: int) -> bool:
    """Return whether a single scan of grey has its restart markers, each in its turn."""
    interval = 0
    start = 0
    for marker, position in jpeg_segments(data):
        if marker == 0xDD:
            (interval,) = struct.unpack_from(">H", data, position + 4)
        start = position
    if not interval or data.count(b"\xff\xda", start) > 1:
        return True
    units = -(-header.width // unit_pixels) * -(-header.height // unit_pixels)
    numbers = [found[0][1] - 0xD0 for found in _RESTART.finditer(data, start)]
    return numbers == [number % 8 for number in range(-(-units // interval) - 1)]
