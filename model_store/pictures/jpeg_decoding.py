"""Decode JPEG files to grey: from 8 bits of any colour space, 12 bits, lossless or JPEG-LS.

`PIL.Image.open` is not used: it tries forty formats and limits sizes by a process-wide setting. Our
own limit is applied to the header before any pixel is decoded.
"""

from __future__ import annotations

from io import BytesIO

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from model_store.pictures.codestream_header import (
    CodestreamHeader,
    Coding,
    jpeg_segments,
    read_codestream_header,
)
from model_store.pictures.grey_conversion import (
    DECODER_ERRORS,
    Decoded,
    damaged,
    orientation_of,
    to_grey,
    turned,
)
from model_store.pictures.jpeg_metadata import without_long_metadata
from model_store.pictures.jpeg_pixels import (
    check_jpeg_scans,
    jpeg_pixel_coding,
    read_jpeg,
    read_jpeg_8_bit,
)
from model_store.pictures.picture_errors import PictureError
from model_store.pictures.picture_size import check_picture_size
from model_store.pictures.pixel_coding import BeforeDecoding, accept_any

_EXIF_SEGMENT = 0xE1


def decode_jpeg(
    data: bytes, max_pixels: int, before_decoding: BeforeDecoding = accept_any
) -> Decoded:
    """Decode a JPEG or JPEG-LS file.

    Args:
        data: the file, with its JPEG signature.
        max_pixels: most pixels allowed.
        before_decoding: called with coding and number of pixels; may refuse by raising.

    Returns:
        Grey pixels (H, W) uint8 or uint16, and what was changed.

    Raises:
        UndecodablePictureError: truncated or damaged.
        UnsupportedPictureError: a kind of JPEG that is not read.
        TooManyPixelsError: above the limit.
        PictureShapeError: a side is too short.
    """
    try:
        data = without_long_metadata(data)
        header = read_codestream_header(data)
        check_picture_size(header.width, header.height, max_pixels)
        before_decoding(jpeg_pixel_coding(data, header), header.width * header.height)
        is_common = header.coding in (Coding.JPEG, Coding.JPEG_ARITHMETIC)
        if is_common and header.precision_bits == 8:
            return _common(data, header)
        exif = orientation_of(lambda: _exif(data))
        pixels = read_jpeg(data, header, header.components)
        grey = to_grey(Image.fromarray(pixels)) if pixels.ndim == 3 else (pixels, ())
        return turned(*grey, exif)
    except PictureError:
        raise
    except DECODER_ERRORS:
        raise damaged("JPEG") from None


def _common(data: bytes, header: CodestreamHeader) -> Decoded:
    check_jpeg_scans(data, header)
    image = JpegImageFile(BytesIO(data))
    check_picture_size(*image.size, header.width * header.height)
    if image.mode in ("L", "RGB"):
        picture = Image.fromarray(read_jpeg_8_bit(data, 3 if image.mode == "RGB" else 1))
    else:  # CMYK: Pillow handles Adobe's inversion
        read_jpeg_8_bit(data, 1)  # refuses missing data
        image.load()
        picture = image
    return turned(*to_grey(picture), orientation_of(image.getexif))


def _exif(data: bytes) -> Image.Exif:
    exif = Image.Exif()
    for marker, position in jpeg_segments(data):
        if marker == _EXIF_SEGMENT and data[position + 4 : position + 10] == b"Exif\0\0":
            length = int.from_bytes(data[position + 2 : position + 4], "big")
            exif.load(data[position + 4 : position + 2 + length])
            break
    return exif
