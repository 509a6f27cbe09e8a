"""Read masks from picture files by one rule: two levels, of which the higher is inside.

Ambiguous files are not guessed at. JPEG noise around a mask, soft edges and label maps have more
than two levels; the caller must name the threshold or the label. A mask in transparency or colours
would be read as the whole picture, so it is refused.
"""

from __future__ import annotations

import warnings
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from model_store.pictures.grey_conversion import DECODER_ERRORS
from model_store.pictures.picture_errors import (
    PictureError,
    UndecodablePictureError,
    UnsupportedPictureError,
)

_FORMATS = ("PNG", "TIFF", "GIF", "BMP", "JPEG")


class MaskError(PictureError):
    """A picture that is not a mask: it has one level, several, or only inside pixels."""

    code = "unsuitable_mask"


def read_mask(
    data: bytes, *, threshold: float | None = None, may_be_empty: bool = False
) -> NDArray[np.bool_]:
    """Read a mask.

    Args:
        data: the file.
        threshold: as of `inside_of`.
        may_be_empty: as of `inside_of`.

    Returns:
        (H, W), turned by the file's orientation.

    Raises:
        MaskError: one level, more than two without a threshold, or everything is inside.
        UndecodablePictureError: damaged.
        UnsupportedPictureError: coloured, or with its mask in the transparency.
    """
    return inside_of(read_levels(data), threshold=threshold, may_be_empty=may_be_empty)


def inside_of(
    levels: NDArray[np.unsignedinteger],
    *,
    threshold: float | None = None,
    may_be_empty: bool = False,
) -> NDArray[np.bool_]:
    """Return which pixels of a mask are inside.

    Args:
        levels: the values as they are stored, (H, W).
        threshold: least share of the format's highest value of an inside pixel, 0 to 1, for soft
            masks; None requires exactly two levels.
        may_be_empty: whether a mask of zeros only is accepted, which one lung of a pair can be.

    Raises:
        MaskError: one level, more than two without a threshold, or everything is inside.
    """
    if may_be_empty and not levels.any():
        return np.zeros(levels.shape, bool)
    if threshold is None:
        present = np.unique(levels)
        if len(present) > 2:
            raise MaskError(
                f"The mask has {len(present)} levels of grey; exactly two are a mask. Give "
                "--mask-threshold for a soft one."
            )
        inside = levels == present[-1] if len(present) == 2 else np.zeros(levels.shape, bool)
    else:
        highest = np.iinfo(levels.dtype).max if levels.max() > 1 else 1
        inside = levels >= threshold * highest
    if not inside.any() or inside.all():
        raise MaskError("The mask has one level only: nothing, or everything, would be inside.")
    return np.asarray(inside)


def read_levels(data: bytes) -> NDArray[np.unsignedinteger]:
    """Read the values of a mask or label map as they are stored.

    Returns:
        (H, W) uint8 or uint16: indices for a palette, 0 and 1 for single bits.

    Raises:
        UndecodablePictureError: damaged.
        UnsupportedPictureError: coloured, held in its transparency, or not of whole numbers.
    """
    try:
        with warnings.catch_warnings(), Image.open(BytesIO(data), formats=_FORMATS) as file:
            warnings.simplefilter("ignore")  # Pillow's, about odd metadata
            image = ImageOps.exif_transpose(file)
            image.load()
    except DECODER_ERRORS:
        raise UndecodablePictureError("The mask cannot be decoded; export it again.") from None
    if image.has_transparency_data:
        opaque = image.convert("RGBA")
        if opaque.getchannel("A").getextrema()[0] != 255:
            raise UnsupportedPictureError(
                "The mask is held in its transparency; store it as grey, black outside."
            )
        image = opaque.convert("RGB")
    values = np.asarray(image)
    if values.ndim == 3:
        if not (values == values[..., :1]).all():
            raise UnsupportedPictureError(
                "The mask is coloured; store it as grey, black outside, or as numbers of labels."
            )
        values = values[..., 0]
    if values.dtype == bool:
        return values.astype(np.uint8)
    if values.dtype.kind == "f" or values.min() < 0 or values.max() > 65_535:
        raise UnsupportedPictureError("The mask has values that are no whole numbers of 16 bits.")
    return values if values.dtype == np.uint8 else values.astype(np.uint16)
