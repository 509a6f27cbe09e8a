"""Decode PNG files of any bit depth and colour type to grey."""

from __future__ import annotations

from io import BytesIO

from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from model_store.pictures.deep_colour import deep_colour_to_grey, read_deep_png_colour
from model_store.pictures.grey_conversion import (
    DECODER_ERRORS,
    Decoded,
    damaged,
    grey_of_relabelled_16_bit_alpha,
    orientation_of,
    to_grey,
    turned,
    without_transparent_grey,
)
from model_store.pictures.picture_errors import PictureError
from model_store.pictures.picture_size import check_picture_size
from model_store.pictures.pixel_coding import BeforeDecoding, PixelCoding, accept_any
from model_store.pictures.png_chunks import PngHeader, keep_pixel_chunks, read_png_header


def decode_png(
    data: bytes, max_pixels: int, before_decoding: BeforeDecoding = accept_any
) -> Decoded:
    """Decode a PNG file.

    Args:
        data: the file, with its PNG signature.
        max_pixels: most pixels allowed.
        before_decoding: called with coding and number of pixels; may refuse by raising.

    Returns:
        Grey pixels (H, W) uint8 or uint16, and what was changed.

    Raises:
        UndecodablePictureError: truncated or damaged.
        UnsupportedPictureError: an animation.
        TooManyPixelsError: above the limit.
        PictureShapeError: a side is too short.
    """
    header = read_png_header(data)
    check_picture_size(header.width, header.height, max_pixels)
    before_decoding(PixelCoding.DEFLATE, header.width * header.height)
    try:
        kept = keep_pixel_chunks(data)
        image = PngImageFile(BytesIO(kept))
        if header.has_16_bit_colour:
            grey = deep_colour_to_grey(
                read_deep_png_colour(kept), transparent=image.info.get("transparency")
            )
        else:
            image.load()
            grey = _grey(image, header)
        return turned(*grey, orientation_of(image.getexif))
    except PictureError:
        raise
    except DECODER_ERRORS:
        raise damaged("PNG") from None


def _grey(image: PngImageFile, header: PngHeader) -> Decoded:
    if header.has_16_bit_alpha:
        return grey_of_relabelled_16_bit_alpha(image)
    transparent = image.info.get("transparency")
    if not header.is_plain_grey or not isinstance(transparent, int):
        return to_grey(image)
    # Pillow widens 1, 2 and 4 bits to 8, but not the transparent value.
    del image.info["transparency"]
    highest = (1 << header.bit_depth) - 1
    scale = 1 if header.bit_depth >= 8 else 255 // highest
    picture: Image.Image = image
    return without_transparent_grey(*to_grey(picture), (transparent & highest) * scale)
