"""Boxes, and whether a box names a region of an image.

It is separate from `geometry`, so that a process that only accepts requests needs no PyTorch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

Box = tuple[float, float, float, float]
"""``x0, y0, x1, y1`` in pixels, origin top left, half-open."""


MOST_ROUNDING_PX = 1e-3
"""How far a box may reach beyond an edge without being refused."""


class BoxError(ValueError):
    """A box that names no region of the image; the message is a sentence for the caller."""


def validate_box(box: Sequence[float], width: int, height: int) -> Box:
    """Return ``box`` as a tuple of floats when it lies inside the image.

    A coordinate that is beyond an edge by no more than rounding is moved onto it: callers who scale
    boxes between sizes of an image send such numbers.

    Args:
        box: ``x0, y0, x1, y1`` in pixels, half-open; edges may touch the image's edges.
        width: Width of the image, in pixels.
        height: Height of the image, in pixels.

    Raises:
        BoxError: Not four finite numbers, inverted, thinner than a pixel, or outside.
    """
    if len(box) != 4:
        raise BoxError(f"A box has four numbers x0,y0,x1,y1; this one has {len(box)}.")
    x0, y0, x1, y1 = (float(value) for value in box)
    if not all(math.isfinite(value) for value in (x0, y0, x1, y1)):
        raise BoxError("A box needs four finite numbers x0,y0,x1,y1.")
    x0, x1 = _without_rounding(x0, width), _without_rounding(x1, width)
    y0, y1 = _without_rounding(y0, height), _without_rounding(y1, height)
    if x1 <= x0 or y1 <= y0:
        raise BoxError("A box needs x0 < x1 and y0 < y1 (left, top, right, bottom).")
    if x0 < 0 or y0 < 0 or x1 > width or y1 > height:
        raise BoxError(
            f"The box reaches outside the image, which is {width} x {height} pixels "
            f"(0 <= x <= {width}, 0 <= y <= {height})."
        )
    if x1 - x0 < 1 or y1 - y0 < 1:
        raise BoxError("A box must be at least one pixel wide and high.")
    return (x0, y0, x1, y1)


def _without_rounding(value: float, size: int) -> float:
    """Return a coordinate, put on the edge where it is beyond by rounding."""
    if -MOST_ROUNDING_PX <= value < 0:
        return 0.0
    return float(size) if size < value <= size + MOST_ROUNDING_PX else value
