"""Convert pictures of any mode to grey, and apply their orientation tag.

What is kept and what is changed:

* grey with 16 bits stays 16 bits (`deep_colour` for colour); 1, 2 and 4 bits become 0..255;
* colour becomes ITU-R BT.601 luma. Equal channels, as viewers usually export an X-ray, keep their
  exact values and cause no warning;
* transparent pixels are blended with black, because X-rays have black surroundings;
* an orientation tag (EXIF 0x0112) is applied, so boxes refer to the picture that a viewer shows.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageFile import ImageFile

from model_store.pictures.orientation import UPRIGHT, Orientation, orientation_of_exif
from model_store.pictures.picture_errors import UndecodablePictureError
from model_store.pictures.picture_warnings import PictureWarning, PictureWarningCode

Decoded = tuple[NDArray[Any], tuple[PictureWarning, ...]]

# Exceptions that Pillow raises on truncated, damaged and hostile files of these three formats.
DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    KeyError,
    IndexError,
    TypeError,
    AssertionError,
    AttributeError,
    OverflowError,
    ZeroDivisionError,
    RuntimeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)

_ORIENTATION_TAG = 0x0112
_ROWS_AT_ONCE = 128  # bounds the memory beside the picture


def to_grey(image: Image.Image) -> Decoded:
    """Convert a loaded image of any mode to grey, (H, W) uint8 or uint16."""
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
        warnings.append(coloured())
    return np.asarray(colours.convert("L")), tuple(warnings)


def _grey_16_bit(image: Image.Image) -> Decoded:
    return np.asarray(image).astype(np.uint16), ()  # native byte order


def without_transparent_grey(
    pixels: NDArray[Any], warnings: tuple[PictureWarning, ...], transparent: int
) -> Decoded:
    """Make the pixels of one grey value black, which a PNG declares transparent."""
    is_transparent = pixels == transparent
    if not is_transparent.any():
        return pixels, warnings
    return np.where(is_transparent, 0, pixels).astype(pixels.dtype), (*warnings, composited())


def grey_of_relabelled_16_bit_alpha(image: ImageFile) -> Decoded:
    """Join the bytes that `keep_pixel_chunks` relabelled: grey high, low, alpha high, low."""
    stored = np.asarray(image)  # (H, W, 4)
    joined = np.empty(stored.shape[:2], np.uint16)
    is_opaque = True
    for top in range(0, len(stored), _ROWS_AT_ONCE):
        channels = stored[top : top + _ROWS_AT_ONCE].astype(np.uint32)
        grey = channels[..., 0] << 8 | channels[..., 1]
        alpha = channels[..., 2] << 8 | channels[..., 3]
        is_opaque &= bool((alpha == 65535).all())
        joined[top : top + _ROWS_AT_ONCE] = (grey * alpha + 32767) // 65535
    return joined, () if is_opaque else (composited(),)


def _over_black(image: Image.Image) -> tuple[Image.Image, list[PictureWarning]]:
    is_grey = image.mode in ("L", "LA", "La")
    layered = image.convert("LA" if is_grey else "RGBA")
    lowest, _ = layered.getchannel("A").getextrema()
    opaque_mode = "L" if is_grey else "RGB"
    if lowest == 255:  # fully opaque: nothing changes, so no warning
        return layered.convert(opaque_mode), []
    black = Image.new(layered.mode, layered.size, (0, 255) if is_grey else (0, 0, 0, 255))
    if is_grey:
        black.paste(layered, mask=layered.getchannel("A"))
        return black.getchannel("L"), [composited()]
    return Image.alpha_composite(black, layered).convert(opaque_mode), [composited()]


def _has_colour(image: Image.Image) -> bool:
    red, green, blue = (np.asarray(channel) for channel in image.split())
    return not (np.array_equal(red, green) and np.array_equal(green, blue))


def turned(
    pixels: NDArray[Any], warnings: tuple[PictureWarning, ...], orientation: Orientation
) -> Decoded:
    """Turn decoded pixels upright, with a warning that says so."""
    if orientation.is_upright:
        return pixels, warnings
    remark = PictureWarning(
        PictureWarningCode.ORIENTATION_APPLIED,
        "The file asks to be turned or mirrored; this was done, and boxes, masks, width and "
        "height refer to the turned image.",
    )
    return orientation.apply(pixels), (*warnings, remark)


def orientation_of(exif: Callable[[], Image.Exif]) -> Orientation:
    """Return the orientation in EXIF data; upright if they are absent or unreadable.

    Args:
        exif: function that reads the data.
    """
    try:
        return orientation_of_exif(exif().get(_ORIENTATION_TAG, 1))
    except DECODER_ERRORS:  # damaged EXIF data do not mean damaged pixels
        return UPRIGHT


def damaged(kind: str) -> UndecodablePictureError:
    """Return the error for a file that cannot be decoded."""
    return UndecodablePictureError(
        f"The {kind} file is truncated or damaged; send it again in full."
    )


def coloured() -> PictureWarning:
    """Return the warning that colours became grey."""
    return PictureWarning(
        PictureWarningCode.COLOUR_TO_GREY,
        "The image has colour; it was turned to grey. An X-ray with drawings or a colour map may "
        "be segmented wrongly.",
    )


def composited() -> PictureWarning:
    """Return the warning that transparent pixels became black."""
    return PictureWarning(
        PictureWarningCode.ALPHA_COMPOSITED,
        "The image has transparent pixels; they were put on black.",
    )


def inverted() -> PictureWarning:
    """Return the warning that a white-is-zero file was inverted."""
    return PictureWarning(
        PictureWarningCode.INVERTED_TO_MONOCHROME2,
        "Zero means white in this file; the grey values were inverted.",
    )
