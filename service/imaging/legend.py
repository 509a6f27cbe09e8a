"""Lines of text in a margin below a picture, so that they hide none of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

_SHARE_OF_WIDTH = 45  # this many letters in a line are readable on the smallest picture
_SMALLEST_SIZE, _LARGEST_SIZE = 10, 40
_INK, _PAPER = (255, 255, 255), (0, 0, 0)
_LINE_HEIGHT = 1.35  # relative to the letters' size


def with_legend(picture: NDArray[np.uint8], lines: Sequence[str]) -> NDArray[np.uint8]:
    """Return a picture with lines of text in a black margin below it.

    Args:
        picture: (H, W, 3) RGB.
        lines: the text; a line that is too long is wrapped.

    Returns:
        (H + margin, W, 3) RGB; the first H rows are the picture's.
    """
    width = picture.shape[1]
    size = min(max(width // _SHARE_OF_WIDTH, _SMALLEST_SIZE), _LARGEST_SIZE)
    font = ImageFont.load_default(size)
    indent = size // 2
    wrapped = [part for line in lines for part in _wrapped(line, font, width - 2 * indent)]
    step = round(size * _LINE_HEIGHT)
    margin = Image.new("RGB", (width, step * len(wrapped) + 2 * indent), _PAPER)
    drawing = ImageDraw.Draw(margin)
    for number, line in enumerate(wrapped):
        drawing.text((indent, indent + number * step), line, font=font, fill=_INK)
    return np.concatenate([picture, np.asarray(margin)])


def _wrapped(line: str, font: Any, width: int) -> list[str]:
    """Break a line at spaces, and a word at any letter, so that each piece fits."""
    pieces: list[str] = []
    current = ""
    for word in line.split(" "):
        longer = f"{current} {word}" if current else word
        if font.getlength(longer) <= width:
            current = longer
            continue
        if current:
            pieces.append(current)
        current = word
        while font.getlength(current) > width and len(current) > 1:
            fitting = next(
                n for n in range(len(current) - 1, 0, -1)
                if n == 1 or font.getlength(current[:n]) <= width
            )  # fmt: skip
            pieces.append(current[:fitting])
            current = current[fitting:]
    return [*pieces, current]
