"""Write overlays as JPEG by libjpeg-turbo, for callers who only show them.

A JPEG is smaller than the PNG and takes less processor time. Colours keep full resolution: the
contour is two pixels wide and its hue distinguishes the masks. Half the resolution would be faster,
but would change the contour's colour visibly.
"""

from __future__ import annotations

import numpy as np
import simplejpeg  # type: ignore[import-untyped]
from numpy.typing import NDArray

QUALITY = 90
LONGEST_SIDE_PX = 65_500
"""The longest side that libjpeg writes (`JPEG_MAX_DIMENSION` of jmorecfg.h)."""


def encode_jpeg(colours: NDArray[np.uint32]) -> bytes:
    """Return a JPEG file with three channels.

    Args:
        colours: (H, W) uint32, Pillow's RGBX, as `overlay_colours` returns them; no side may be
            longer than `LONGEST_SIDE_PX`.
    """
    rgbx = np.ascontiguousarray(colours).view(np.uint8).reshape(*colours.shape, 4)
    data: bytes = simplejpeg.encode_jpeg(
        rgbx, quality=QUALITY, colorspace="RGBX", colorsubsampling="444", fastdct=False
    )
    return data
