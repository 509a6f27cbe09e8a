"""The grey values of an X-ray for display before segmentation, with a window.

A browser cannot read DICOM, and reduces 16-bit PNGs to 8 bits. Codecs in JavaScript could decode a
file differently. So the page gets the values that the service itself decodes, 16 bits each, and
windows them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_store.pictures.picture_reading import Picture
from model_store.pictures.pixel_coding import BeforeDecoding, accept_any
from service.imaging.answer_data import RenderedAnswer
from service.imaging.picture_errors import read_upload
from service.imaging.rendering import display_window
from service.imaging.task_data import PREVIEW_LONGEST_SIDE, PREVIEW_MEDIA_TYPE


def preview_of(
    data: bytes, max_pixels: int, before_decoding: BeforeDecoding = accept_any
) -> RenderedAnswer:
    """Decode a file and return its grey values for a screen.

    Args:
        data: the file.
        max_pixels: most pixels allowed.
        before_decoding: told what decoding will cost.

    Returns:
        Little-endian uint16 values (H, W), brighter = denser, in the frame of boxes and masks.
        Headers `X-Lungseg-Preview-Width` and `-Height` are H and W, `-Image-Width` and `-Height`
        the size of the X-ray itself, `-Window-Low` and `-High` what to show as black and as white,
        `-Image-Format` its format.

    Raises:
        ServiceError: the image is refused.
    """
    picture = read_upload(data, max_pixels, before_decoding)
    values = reduced(picture.pixels, PREVIEW_LONGEST_SIDE)
    low, high = display_window(values)
    numbers = {
        "Preview-Width": values.shape[1],
        "Preview-Height": values.shape[0],
        "Image-Width": picture.width,
        "Image-Height": picture.height,
        "Window-Low": low,
        "Window-High": high,
    }
    headers = {f"X-Lungseg-{name}": str(number) for name, number in numbers.items()}
    headers["X-Lungseg-Image-Format"] = picture.format
    return RenderedAnswer(
        media_type=PREVIEW_MEDIA_TYPE,
        body=values.astype("<u2").tobytes(),
        headers=headers,
        warning_codes=_codes(picture),
        area_ratios=(),
        stage_seconds={},
    )


def reduced(pixels: NDArray[Any], longest_side: int) -> NDArray[np.uint16]:
    """Reduce grey values until the longer side fits, each to the mean of a square of pixels.

    Args:
        pixels: (H, W) uint8 or uint16.
        longest_side: most pixels on either side.

    Returns:
        (H // n, W // n) uint16 for the smallest whole n that fits; up to n - 1 pixels at the right
        and bottom edge are left out.
    """
    step = -(-max(pixels.shape) // longest_side)
    if step == 1:
        return pixels.astype(np.uint16)
    height, width = (side // step for side in pixels.shape)
    squares = pixels[: height * step, : width * step].reshape(height, step, width, step)
    means: NDArray[np.uint16] = np.rint(squares.mean(axis=(1, 3))).astype(np.uint16)
    return means


def _codes(picture: Picture) -> tuple[str, ...]:
    return tuple(dict.fromkeys(str(warning.code) for warning in picture.warnings))
