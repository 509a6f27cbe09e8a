"""PNG, JPEG and TIFF to grey pixels, through Pillow's own file classes.

`PIL.Image.open` is not used: it guesses among forty formats and judges size by a process-wide
setting. The class of each format is called directly instead; it reads the header only, our own
limit is applied, and only then are pixels decoded. No global setting of Pillow is touched.

What is kept and what is changed:

* grey with 16 bits stays 16 bits; 1, 2 and 4 bits become 0..255;
* colour becomes ITU-R BT.601 luma. Equal channels, the usual way in which viewers export an
  X-ray, come out exactly as they were and draw no warning;
* transparent pixels are laid over black, since that is what surrounds an X-ray;
* an orientation tag (EXIF 0x0112) is obeyed, so boxes refer to what a viewer shows;
* colour with 16 bits per channel is refused: Pillow would cut it to 8 silently.
"""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from model_store.pictures.jpeg_pixels import read_jpeg
from model_store.pictures.picture_errors import (
    TooManyPixelsError,
    UndecodablePictureError,
    UnsupportedPictureError,
)
from model_store.pictures.picture_size import check_picture_size
from model_store.pictures.picture_warnings import PictureWarning, PictureWarningCode
from model_store.pictures.png_chunks import keep_pixel_chunks, read_png_header

Decoded = tuple[NDArray[Any], tuple[PictureWarning, ...]]

# What Pillow was seen to raise on truncated, damaged and hostile files of these three formats.
DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    OverflowError,
    ZeroDivisionError,
    MemoryError,
    RuntimeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)

_ORIENTATION_TAG = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TIFF_BITS_PER_SAMPLE, _TIFF_PHOTOMETRIC, _TIFF_SAMPLE_FORMAT = 258, 262, 339
_TIFF_TILE_WIDTH, _TIFF_TILE_HEIGHT = 322, 323
_MAX_JPEG_SCANS = 200
"""A progressive JPEG may repeat scans over all its pixels without end at a few bytes each; real
encoders write about ten."""


def decode_png(data: bytes, max_pixels: int) -> Decoded:
    """Decodes a PNG file of any bit depth and colour type.

    Args:
        data: the file, with its PNG signature.
        max_pixels: most pixels allowed.

    Returns:
        Grey pixels (H, W) uint8 or uint16, and what was changed.

    Raises:
        UndecodablePictureError: truncated or damaged.
        UnsupportedPictureError: an animation, or 16 bits per channel in colour.
        TooManyPixelsError: above the limit.
        PictureShapeError: a side is too short.
    """
    header = read_png_header(data)
    check_picture_size(header.width, header.height, max_pixels)
    if header.has_16_bit_colour:
        raise _colour_with_16_bits()
    try:
        image = PngImageFile(BytesIO(keep_pixel_chunks(data)))
        image.load()
        if header.has_16_bit_alpha:
            return _turned(image, *_grey_of_relabelled_16_bit_alpha(image))
        return _turned(image, *_grey(image))
    except DECODER_ERRORS:
        raise _damaged("PNG") from None


def decode_jpeg(data: bytes, max_pixels: int) -> Decoded:
    """Decodes a JPEG file: grey, YCbCr, RGB, CMYK or YCCK, baseline or progressive.

    Args and errors are those of `decode_png`.
    """
    if data.count(b"\xff\xda") > _MAX_JPEG_SCANS:  # entropy-coded bytes never hold FF DA
        raise UndecodablePictureError("The JPEG file has implausibly many scans.")
    try:
        image = JpegImageFile(BytesIO(data))
    except DECODER_ERRORS:
        raise _damaged("JPEG") from None
    check_picture_size(*image.size, max_pixels)
    try:
        picture = _picture(image, data)
        if picture is None:
            image.load()
        return _turned(image, *_grey(image if picture is None else picture))
    except DECODER_ERRORS:
        raise _damaged("JPEG") from None


def _picture(image: JpegImageFile, data: bytes) -> Image.Image | None:
    """Returns the pixels of a JPEG; None leaves it to Pillow.

    Raises:
        UndecodablePictureError: data are missing or damaged.
    """
    pixels = read_jpeg(data, 3 if image.mode == "RGB" else 1)
    if pixels is None or image.mode not in ("L", "RGB"):  # CMYK: Pillow knows Adobe's inversion
        return None
    return Image.fromarray(pixels[..., 0] if image.mode == "L" else pixels)


def decode_tiff(data: bytes, max_pixels: int) -> Decoded:
    """Decodes a TIFF file of one page: 1, 8 or 16 bits of grey, palette, RGB(A), CMYK.

    Args and errors are those of `decode_png`; several pages, signed, 32-bit and floating point
    samples raise `UnsupportedPictureError`, because they do not say which value is black.
    """
    try:
        image = TiffImageFile(BytesIO(data))
        tags = dict(image.tag_v2)
    except DECODER_ERRORS as error:
        if "unknown pixel mode" in str(error):
            raise _unsupported_tiff() from None
        raise _damaged("TIFF") from None
    check_picture_size(*image.size, max_pixels)
    _check_tile_size(tags, max_pixels)
    _check_tiff_samples(image, tags)
    try:
        orientation = _orientation(image)  # Pillow turns TIFF files by itself, and then forgets
        _refuse_second_page(image)
        image.load()
        pixels, warnings = _grey(image)
    except DECODER_ERRORS:
        raise _damaged("TIFF") from None
    if pixels.dtype == np.uint16 and tags.get(_TIFF_PHOTOMETRIC) == 0:
        # Pillow inverts white-is-zero files of 1 and 8 bits, but not of 16.
        pixels, warnings = np.uint16(65535) - pixels, (*warnings, _inverted())
    if orientation in _TURNS:
        warnings = (*warnings, _turned_by_tag())
    return pixels, warnings


def _grey(image: Image.Image) -> Decoded:
    """Converts a loaded image of any mode to grey, (H, W) uint8 or uint16."""
    if image.mode.startswith("I;16"):
        return _grey_16_bit(image)
    if image.mode == "1":
        return np.asarray(image.convert("L")), ()
    warnings: list[PictureWarning] = []
    picture = image
    if image.has_transparency_data:
        picture, warnings = _over_black(image)
    if picture.mode == "L":
        return np.asarray(picture), tuple(warnings)
    if picture.mode == "LA":
        return np.asarray(picture.getchannel("L")), tuple(warnings)
    colours = picture.convert("RGB")
    if _has_colour(colours):
        warnings.append(
            PictureWarning(
                PictureWarningCode.COLOUR_TO_GREY,
                "The image has colour; it was turned to grey. An X-ray with drawings or a colour "
                "map may be segmented wrongly.",
            )
        )
    return np.asarray(colours.convert("L")), tuple(warnings)


def _grey_16_bit(image: Image.Image) -> Decoded:
    pixels = np.asarray(image).astype(np.uint16)  # native byte order
    transparent = image.info.get("transparency")
    if isinstance(transparent, int) and bool((pixels == transparent).any()):
        pixels[pixels == transparent] = 0
        return pixels, (_composited(),)
    return pixels, ()


def _grey_of_relabelled_16_bit_alpha(image: ImageFile) -> Decoded:
    """Joins the bytes that `keep_pixel_chunks` relabelled: grey high, low, alpha high, low."""
    channels = np.asarray(image).astype(np.uint32)  # (H, W, 4)
    grey = channels[..., 0] << 8 | channels[..., 1]
    alpha = channels[..., 2] << 8 | channels[..., 3]
    if bool((alpha == 65535).all()):
        return grey.astype(np.uint16), ()
    return ((grey * alpha + 32767) // 65535).astype(np.uint16), (_composited(),)


def _over_black(image: Image.Image) -> tuple[Image.Image, list[PictureWarning]]:
    is_grey = image.mode in ("L", "LA", "La")
    layered = image.convert("LA" if is_grey else "RGBA")
    lowest, _ = layered.getchannel("A").getextrema()
    opaque_mode = "L" if is_grey else "RGB"
    if lowest == 255:  # fully opaque: nothing is changed, so nothing is said
        return layered.convert(opaque_mode), []
    black = Image.new(layered.mode, layered.size, (0, 255) if is_grey else (0, 0, 0, 255))
    if is_grey:
        black.paste(layered, mask=layered.getchannel("A"))
        return black.getchannel("L"), [_composited()]
    return Image.alpha_composite(black, layered).convert(opaque_mode), [_composited()]


def _has_colour(image: Image.Image) -> bool:
    red, green, blue = (np.asarray(channel) for channel in image.split())
    return not (np.array_equal(red, green) and np.array_equal(green, blue))


def _turned(
    image: ImageFile, pixels: NDArray[Any], warnings: tuple[PictureWarning, ...]
) -> Decoded:
    turn = _TURNS.get(_orientation(image))
    if turn is None:
        return pixels, warnings
    turned = np.asarray(Image.fromarray(pixels).transpose(turn)).astype(pixels.dtype)
    return turned, (*warnings, _turned_by_tag())


def _orientation(image: ImageFile) -> int:
    """Returns the EXIF orientation, 1 (upright) where it is absent or unreadable."""
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except DECODER_ERRORS:  # damaged EXIF data say nothing about the pixels
        return 1
    return value if isinstance(value, int) else 1


def _refuse_second_page(image: TiffImageFile) -> None:
    try:
        image.seek(1)
    except EOFError:
        image.seek(0)
        return
    raise UnsupportedPictureError("The TIFF file has several pages; send a single X-ray.")


def _check_tile_size(tags: dict[int, Any], max_pixels: int) -> None:
    """Refuses tiles larger than any image we take: the library makes room for whole tiles."""
    width, height = tags.get(_TIFF_TILE_WIDTH, 0), tags.get(_TIFF_TILE_HEIGHT, 0)
    if isinstance(width, int) and isinstance(height, int) and width * height > max_pixels:
        raise TooManyPixelsError(
            f"The TIFF file has tiles of {width * height} pixels; the limit is {max_pixels}."
        )


def _check_tiff_samples(image: TiffImageFile, tags: dict[int, Any]) -> None:
    bits = tags.get(_TIFF_BITS_PER_SAMPLE, (1,))
    deepest = max(bits) if isinstance(bits, tuple) and bits else 1
    formats = tags.get(_TIFF_SAMPLE_FORMAT, (1,))
    is_unsigned = formats == 1 or set(formats if isinstance(formats, tuple) else ()) == {1}
    if image.mode in ("I", "F") or not is_unsigned:
        raise _unsupported_tiff()
    if deepest > 8 and not image.mode.startswith("I;16"):
        raise _colour_with_16_bits()


def _colour_with_16_bits() -> UnsupportedPictureError:
    return UnsupportedPictureError(
        "The image has colour with more than 8 bits per channel, which cannot be read without "
        "losing precision; send 16-bit grey or 8-bit colour."
    )


def _unsupported_tiff() -> UnsupportedPictureError:
    return UnsupportedPictureError(
        "The TIFF file holds signed, floating point or other values that are not read; send "
        "unsigned grey of 8 or 16 bits."
    )


def _damaged(kind: str) -> UndecodablePictureError:
    return UndecodablePictureError(
        f"The {kind} file is truncated or damaged; send it again in full."
    )


def _composited() -> PictureWarning:
    return PictureWarning(
        PictureWarningCode.ALPHA_COMPOSITED,
        "The image has transparent pixels; they were put on black.",
    )


def _turned_by_tag() -> PictureWarning:
    return PictureWarning(
        PictureWarningCode.ORIENTATION_APPLIED,
        "The file asks to be turned or mirrored; this was done, and boxes, masks, width and "
        "height refer to the turned image.",
    )


def _inverted() -> PictureWarning:
    return PictureWarning(
        PictureWarningCode.INVERTED_TO_MONOCHROME2,
        "Zero means white in this file; the grey values were inverted.",
    )
