"""Decode JPEG codestreams that `jpeg_damage` found complete.

* 8 bits: simplejpeg, with Pillow's pixels (tested) in half the time; Pillow where simplejpeg
  refuses a file.
* 12 bits and lossless: libjpeg-turbo in imagecodecs.
* JPEG-LS: CharLS in imagecodecs.
"""

from __future__ import annotations

from io import BytesIO
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL.JpegImagePlugin import JpegImageFile

from model_store.pictures.codestream_header import (
    CodestreamHeader,
    Coding,
    find_first_scan,
    jpeg_segments,
)
from model_store.pictures.jpeg_damage import check_deep_jpeg, damaged_jpeg, read_whole_jpeg
from model_store.pictures.picture_errors import UndecodablePictureError, UnsupportedPictureError
from model_store.pictures.pixel_coding import PixelCoding

USUAL_SCANS = 32
"""More scans than any encoder writes: about ten, and a few more in files optimized for size."""

MOST_SCANS = 200
"""A progressive JPEG may repeat scans over all its pixels without end at a few bytes each; real
encoders write about ten."""
MOST_SCANNED_PIXELS = 800_000_000
"""Most scans times pixels: 5 seconds of a slow core. Ten scans of the largest X-ray are half of
it."""

_END = b"\xff\xd9"
_APP14_ADOBE = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"  # followed by the transform's byte


def scans_in(data: bytes, start: int = 0, end: int | None = None) -> int:
    """Return the number of scans in a codestream, or in a part of a file that contains it."""
    return data.count(b"\xff\xda", start, end)  # entropy-coded bytes never contain FF DA


def jpeg_pixel_coding(codestream: bytes, header: CodestreamHeader) -> PixelCoding:
    """Return the coding of a codestream of the JPEG family, for the cost of decoding.

    Args:
        codestream: the whole codestream, whose scans are counted.
        header: its frame header.
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
    """Return a JPEG that states the colour transform of its three components; add it if absent.

    Without a JFIF or Adobe segment a decoder would guess; TIFF and DICOM state the transform
    outside the JPEG.
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
        header: its frame header.
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
    return _read_deep(codestream, header)


def read_jpeg_8_bit(codestream: bytes, channels: int) -> NDArray[Any]:
    """Decode a JPEG of 8 bits; see `read_jpeg`.

    Raises:
        UndecodablePictureError: data are missing or damaged.
    """
    pixels = read_whole_jpeg(codestream, channels)
    return _read_by_pillow(codestream, channels) if pixels is None else pixels


def _read_by_pillow(codestream: bytes, channels: int) -> NDArray[Any]:
    """Decode a whole JPEG that simplejpeg refuses, such as one with bytes after its end."""
    image = JpegImageFile(BytesIO(codestream))
    image.load()
    return np.asarray(image.convert("L" if channels == 1 else "RGB"))


def _read_jpeg_ls(codestream: bytes) -> NDArray[Any]:
    end = codestream.find(_END, find_first_scan(codestream))  # codes never contain it
    if end < 0:
        raise damaged_jpeg()  # CharLS would read beyond the last byte, for 10 seconds or more
    try:
        return imagecodecs.jpegls_decode(codestream[: end + len(_END)])
    except imagecodecs.JpeglsError:
        raise damaged_jpeg() from None


def _read_deep(codestream: bytes, header: CodestreamHeader) -> NDArray[Any]:
    check_deep_jpeg(codestream, header)
    try:
        return imagecodecs.jpeg8_decode(codestream)
    except imagecodecs.Jpeg8Error:
        raise damaged_jpeg() from None
