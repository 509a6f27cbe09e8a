"""The limits on an image's width and height, checked on its header before any pixel is decoded.

A few kilobytes can declare a hundred megapixels, so sizes are checked before memory is allocated.
"""

from __future__ import annotations

from model_store.pictures.picture_errors import (
    PictureShapeError,
    TooManyPixelsError,
    UndecodablePictureError,
)

MINIMUM_SIDE_PIXELS = 32
"""Shorter sides are less than two patches of the smallest model input, too few for a lung outline.
Such files are icons or thumbnails sent by mistake."""

MAXIMUM_ASPECT = 10
"""Largest ratio of the sides. Frontal chest X-rays are nearly square. A strip is not an X-ray, and
would fill the model's square input almost only with padding."""


def check_picture_size(width: int, height: int, max_pixels: int) -> None:
    """Refuse images that are too large or too small.

    Args:
        width: width in pixels, as the header says.
        height: height in pixels, as the header says.
        max_pixels: most pixels allowed, inclusive.

    Raises:
        UndecodablePictureError: a side is zero or negative.
        TooManyPixelsError: `width * height` is above `max_pixels`.
        PictureShapeError: a side is shorter than `MINIMUM_SIDE_PIXELS`, or more than
            `MAXIMUM_ASPECT` times as long as the other.
    """
    if width <= 0 or height <= 0:
        raise UndecodablePictureError("The image header gives no valid width and height.")
    if width * height > max_pixels:
        raise TooManyPixelsError(
            f"The image has {width * height} pixels ({width} x {height}); "
            f"the limit is {max_pixels}. Send a smaller version."
        )
    if min(width, height) < MINIMUM_SIDE_PIXELS:
        raise PictureShapeError(
            f"The image is {width} x {height} pixels; each side must have at least "
            f"{MINIMUM_SIDE_PIXELS}. Send the X-ray itself and not a thumbnail."
        )
    if max(width, height) > MAXIMUM_ASPECT * min(width, height):
        raise PictureShapeError(
            f"The image is {width} x {height} pixels; one side may be at most {MAXIMUM_ASPECT} "
            "times as long as the other. Send one X-ray, not a strip."
        )
