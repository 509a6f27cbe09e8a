"""Pictures for people, made from an X-ray and its masks: overlay, outline, isolated, enhanced.

Isolated and enhanced lungs are what the published method was made for: parenchyma alone, and
abnormalities that are easier to see. Isolated pixels keep their values and all of their bits.
Enhanced ones do not: CLAHE (Zuiderveld 1994) equalises their contrast in tiles, so their legend
says not to measure in them. Masks with warnings look different: a dashed outline if a person must
look, red dashes if the mask is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_store.boxes import Box
from model_store.opencv import cv2
from service.imaging.legend import with_legend
from service.imaging.png_encoding import encode_png, rgb_of
from service.imaging.rendering import (
    Mask,
    OutlineStyle,
    overlay_colours,
    window_for_display,
)
from service.imaging.segment_request import View
from service.imaging.warning_advice import Severity

CLAHE_CLIP_LIMIT = 2.0
"""CLAHE's clip limit: largest share of a grey value in a tile, over the mean share."""
CLAHE_TILES = (8, 8)
NOT_FOR_MEASURING = "for viewing, not for measuring"
_STYLES = {
    None: OutlineStyle.PLAIN,
    Severity.INFO: OutlineStyle.PLAIN,
    Severity.LOOK: OutlineStyle.DASHED,
    Severity.REFUSE: OutlineStyle.DASHED_RED,
}

Picture = NDArray[np.uint8] | NDArray[np.uint16]


@dataclass(frozen=True)
class ViewedMasks:
    """The content of a view.

    Attributes:
        pixels: the X-ray, (H, W) uint8 or uint16.
        masks: (H, W) bool each.
        boxes: the caller's boxes, drawn into overlays.
        severity: gravest severity of the warnings; None for none.
    """

    pixels: NDArray[Any]
    masks: Sequence[Mask]
    boxes: Sequence[Box] = ()
    severity: Severity | None = None

    @property
    def union(self) -> Mask:
        """The pixels of any mask, (H, W) bool."""
        union: Mask = np.logical_or.reduce(list(self.masks))
        return union


def view_of(view: View, shown: ViewedMasks) -> Picture:
    """Return a view with the X-ray's width and height.

    Args:
        view: kind of picture, such as the overlay.
        shown: the X-ray and its masks.

    Returns:
        (H, W, 3) uint8 for overlay and outline; (H, W) of the X-ray's type for isolated lungs,
        uint8 for enhanced ones.
    """
    if view is View.ISOLATED:
        isolated: Picture = np.where(shown.union, shown.pixels, shown.pixels.dtype.type(0))
        return isolated
    if view is View.ENHANCED:
        return _enhanced(shown)
    colours = overlay_colours(
        shown.pixels,
        shown.masks,
        shown.boxes,
        style=_STYLES[shown.severity],
        is_tinted=view is View.OVERLAY,
    )
    return rgb_of(colours)


def _enhanced(shown: ViewedMasks) -> NDArray[np.uint8]:
    grey = window_for_display(shown.pixels)
    equalised = cv2.createCLAHE(CLAHE_CLIP_LIMIT, CLAHE_TILES).apply(np.ascontiguousarray(grey))
    return np.where(shown.union, np.asarray(equalised, dtype=np.uint8), grey)


def legend_of(
    view: View, convention: str, confidences: Sequence[float], warnings: Sequence[tuple[str, str]]
) -> list[str]:
    """Return the lines of a view's legend.

    Args:
        view: kind of picture, such as the overlay.
        convention: convention of the masks.
        confidences: confidence of each mask.
        warnings: code and severity of each.
    """
    numbers = ", ".join(f"{value:.2f}" for value in confidences)
    lines = [f"AI result, not a diagnosis · {convention} · confidence {numbers}"]
    for severity in (Severity.REFUSE, Severity.LOOK):
        codes = [code for code, found in warnings if found == severity]
        if codes:
            lines.append(f"{severity}: {', '.join(dict.fromkeys(codes))}")
    if view is View.ENHANCED:
        lines.append(NOT_FOR_MEASURING)
    return lines


def with_margin(picture: Picture, lines: Sequence[str]) -> Picture:
    """Return a picture with lines of text in a margin below it, of the picture's own type.

    With 16 bits the text is as bright as the picture's brightest pixel: viewers stretch the range
    of values, and white of 65535 would make an X-ray of 12 bits black.
    """
    if picture.ndim == 3:
        return with_legend(picture.astype(np.uint8, copy=False), lines)
    empty = np.zeros((0, picture.shape[1], 3), np.uint8)
    margin = with_legend(empty, lines)[..., 0]
    if picture.dtype == np.uint8:
        return np.concatenate([picture, margin]).astype(np.uint8, copy=False)
    white = max(int(picture.max(initial=0)), 255)
    deep = (margin.astype(np.uint32) * white // 255).astype(np.uint16)
    return np.concatenate([picture, deep]).astype(np.uint16, copy=False)


def encode_view(picture: Picture) -> bytes:
    """Return a PNG file: RGB, or grey with 8 or 16 bits."""
    if picture.dtype == np.uint8:
        return encode_png(picture.astype(np.uint8, copy=False))
    is_written, data = cv2.imencode(".png", picture, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not is_written:
        raise ValueError(f"cannot write {picture.dtype} {picture.shape} as PNG")
    return bytes(data)
