"""Colour with 16 bits per channel to grey with 16 bits.

Viewers export an X-ray of 16 bits as three equal channels. Pillow has no mode for them and drops
the lower byte of each. Here the luma is computed at full depth, by Pillow's own weights (ITU-R
BT.601), so that equal channels keep their exact values.
"""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.PngImagePlugin import PngImageFile

from model_store.pictures.grey_conversion import Decoded, coloured, composited
from model_store.pictures.picture_warnings import PictureWarning

_LUMA_WEIGHTS = (19_595, 38_470, 7_471)  # of red, green and blue; together 65536
_HALF = 32_768
_ROWS_AT_ONCE = 128  # bounds temporary memory
_OPAQUE = 65_535


def deep_colour_to_grey(
    channels: NDArray[np.uint16],
    *,
    transparent: tuple[int, ...] | None = None,
    is_premultiplied: bool = False,
) -> Decoded:
    """Convert colours to grey; transparent parts are composited over black.

    Args:
        channels: (H, W, 3), or (H, W, 4) with alpha.
        transparent: red, green and blue that a PNG declares transparent.
        is_premultiplied: whether the colours are already multiplied by alpha.

    Returns:
        Grey pixels (H, W) uint16, and warnings about what was changed.
    """
    grey = np.empty(channels.shape[:2], np.uint16)
    has_colour = is_composited = False
    for top in range(0, len(channels), _ROWS_AT_ONCE):
        rows = channels[top : top + _ROWS_AT_ONCE]
        luma = np.full(rows.shape[:2], _HALF, np.uint32)
        for channel, weight in enumerate(_LUMA_WEIGHTS):
            luma += rows[..., channel] * np.uint32(weight)
        luma >>= 16
        has_colour |= bool((rows[..., :3] != rows[..., :1]).any())
        if rows.shape[-1] == 4:
            alpha = rows[..., 3].astype(np.uint32)
            is_composited |= int(alpha.min()) < _OPAQUE
            if not is_premultiplied:
                luma = (luma * alpha + _OPAQUE // 2) // _OPAQUE
        elif transparent is not None:
            hidden = (rows == np.asarray(transparent, np.uint16)).all(axis=-1)
            is_composited |= bool(hidden.any())
            luma[hidden] = 0
        grey[top : top + _ROWS_AT_ONCE] = luma
    warnings: tuple[PictureWarning, ...] = (composited(),) if is_composited else ()
    return grey, (*warnings, coloured()) if has_colour else warnings


def read_deep_png_colour(png: bytes) -> NDArray[np.uint16]:
    """Return the channels of a PNG with 16 bits of colour, (H, W, 3) or (H, W, 4).

    Pillow keeps only one of two bytes: the first as big endian, the second as little endian. So the
    file is decoded twice, once for each byte.

    Args:
        png: the file, with its signature and only the chunks of its pixels.
    """
    high, low = (_first_bytes(png, order) for order in ("B", "L"))
    return np.asarray(np.left_shift(high, 8, dtype=np.uint16) | low)


def _first_bytes(png: bytes, order: str) -> NDArray[Any]:
    image = PngImageFile(BytesIO(png))
    image.tile = [tile._replace(args=f"{image.mode};16{order}") for tile in image.tile]
    image.load()
    return np.asarray(image)
