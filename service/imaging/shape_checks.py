"""Warn if a mask does not have the shape, the position or the grey values of two lungs.

A picture that is not an upright, whole, frontal chest X-ray seldom gives an empty mask: the model
finds something lung-like in everything. These rules compare its mask with human masks. Limits are
set on `val` only; `python -m benchmarks.quality.gating --data DATA` prints how often each rule
warns on good X-rays, on corrupted ones and on pictures of other things.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_store.opencv import cv2
from service.imaging.lung_shapes import Cells, load_lung_shapes, shape_of
from service.imaging.mask_grid import MaskGrid, sampled
from service.imaging.response_warnings import ImageWarning, WarningCode

EDGE_MARGIN = 0.01
"""Margin inside the picture's edge at which the outline is examined, as a share of the longer side:
the model ends a mask a pixel or two before an edge that cuts through a lung."""
WIDE_MARGIN = 0.02
"""The same margin for masks that prove that no lung is cut."""
MAXIMUM_EDGE_SHARE = 0.12
"""Largest share of the outline along the picture's edge: 2 of the 178 human masks of `val` have
more."""
MAXIMUM_DISTANCE = 7.5
"""Largest distance from human masks: of those of `val` 95 % are below 3.4, all below 6.7."""
MAXIMUM_PROPORTION_DEVIATIONS = 4.0
"""Largest deviation of the aspect ratio: human masks of `val` deviate by at most 3.3, sides
squeezed to 40 % by 5 or more."""
TURNED_FROM_DISTANCE = 4.5
TURNED_RATIO = 0.8
"""A shape counts as turned if turning it multiplies its distance from lungs by at most this ratio.
For upright masks of `val` the factor is at least 1.9."""
MAXIMUM_FLAT_SHARE = 0.08
"""Largest share of the mask where the picture has a single grey value."""
INVERTED_FROM = 0.06
"""Most by which the lungs may be brighter than the space between them, as a share of the grey
range."""
_FLAT_WINDOW = np.ones((5, 5), np.uint8)
_SMALLEST_GAP = 30  # least samples between the lungs for a comparison


def check_lung_shapes(grid: MaskGrid, pixels: NDArray[Any] | None) -> list[ImageWarning]:
    """Return warnings about a mask of both lungs.

    Args:
        grid: the mask, not empty.
        pixels: the X-ray, (H, W) uint8 or uint16; None to skip the grey values.
    """
    found = [*_check_pieces(grid), *_check_edge(grid)]
    unlike = _check_against_lungs(grid)
    found += unlike
    if pixels is not None:
        found += _check_grey(grid, sampled(pixels), is_lung_like=not unlike)
    return found


def edge_share(mask: NDArray[np.bool_], margin: float = EDGE_MARGIN) -> float:
    """Return the share of a mask's outline that runs along the picture's edge.

    Args:
        mask: (h, w) bool.
        margin: distance from the picture's edge, as a share of the longer side.
    """
    inside = round(margin * max(mask.shape))
    height, width = mask.shape
    part = mask[inside : height - inside, inside : width - inside]
    edges = (part[0], part[-1], part[:, 0], part[:, -1])
    along = sum(int(np.count_nonzero(edge)) for edge in edges)
    within = np.count_nonzero(part[1:] != part[:-1]) + np.count_nonzero(part[:, 1:] != part[:, :-1])
    return along / max(1, along + int(within))


def shows_whole_lungs(grid: MaskGrid) -> bool:
    """Return whether a mask has two lungs, and its outline keeps away from the picture's edges."""
    return len(grid.large_pieces) == 2 and edge_share(grid.mask, WIDE_MARGIN) == 0.0


def are_lungs_dark(grid: MaskGrid, grey: NDArray[Any]) -> bool:
    """Return whether a mask of the shape of lungs is darker than the space between its parts.

    Args:
        grid: samples of the mask.
        grey: the X-ray at the same samples (`mask_grid.sampled`), brighter = denser.

    Returns:
        False if it cannot be determined.
    """
    if _check_against_lungs(grid) or not _between(grid.mask).any():
        return False
    return _brightness_over_the_middle(grid.mask, grey) <= INVERTED_FROM


def _check_pieces(grid: MaskGrid) -> list[ImageWarning]:
    count = len(grid.large_pieces)
    if count == 1:
        return [
            ImageWarning(
                WarningCode.ONE_LUNG,
                "The mask is one piece: a lung is missing, or both run into each other.",
            )
        ]
    if count > 2:
        return [
            ImageWarning(
                WarningCode.TOO_MANY_LUNGS,
                f"The mask has {count} parts of the size of a lung: there may be several X-rays "
                "in the picture, or a lung lies in pieces.",
            )
        ]
    return []


def _check_edge(grid: MaskGrid) -> list[ImageWarning]:
    if edge_share(grid.mask) <= MAXIMUM_EDGE_SHARE:
        return []
    return [
        ImageWarning(
            WarningCode.CUT_OFF_MASK,
            f"More than {MAXIMUM_EDGE_SHARE:.0%} of the outline runs along the picture's edge: "
            "the picture does not show all of the lungs.",
        )
    ]


def _check_against_lungs(grid: MaskGrid) -> list[ImageWarning]:
    shapes = load_lung_shapes()
    cells, width, height = shape_of(grid.mask)
    distance = shapes.distance(cells)
    deviations = shapes.proportion_deviations(width, height)
    if distance > TURNED_FROM_DISTANCE and len(grid.large_pieces) <= 2:
        nearest = min(shapes.distance(turned) for turned in _turned(cells))
        if nearest < TURNED_RATIO * distance:
            return [
                ImageWarning(
                    WarningCode.TURNED,
                    "The mask looks like lungs on an X-ray that is turned or upside down.",
                )
            ]
    if distance > MAXIMUM_DISTANCE or abs(deviations) > MAXIMUM_PROPORTION_DEVIATIONS:
        return [
            ImageWarning(
                WarningCode.NOT_A_FRONTAL_CHEST,
                "The mask does not have the shape of lungs on a whole frontal chest X-ray.",
            )
        ]
    return []


def _turned(cells: Cells) -> list[Cells]:
    """Return a shape turned by a quarter, a half and three quarters, and upside down."""
    return [np.rot90(cells, 1), np.rot90(cells, 2), np.rot90(cells, 3), cells[::-1]]


def _check_grey(grid: MaskGrid, grey: NDArray[Any], *, is_lung_like: bool) -> list[ImageWarning]:
    if _flat_share(grid.mask, grey) > MAXIMUM_FLAT_SHARE:
        return [
            ImageWarning(
                WarningCode.MASK_BEYOND_THORAX,
                "Much of the mask lies where the picture shows nothing: beside the body, or under "
                "something that covers it.",
            )
        ]
    if is_lung_like and _brightness_over_the_middle(grid.mask, grey) > INVERTED_FROM:
        return [
            ImageWarning(
                WarningCode.INVERTED,
                "The lungs are brighter than what lies between them: the grey values are inverted.",
            )
        ]
    return []


def _flat_share(mask: NDArray[np.bool_], grey: NDArray[Any]) -> float:
    flat = cv2.dilate(grey, _FLAT_WINDOW) == cv2.erode(grey, _FLAT_WINDOW)
    return float(np.count_nonzero(flat & mask)) / max(1, int(np.count_nonzero(mask)))


def _brightness_over_the_middle(mask: NDArray[np.bool_], grey: NDArray[Any]) -> float:
    """Return how much brighter the lungs are than the space between them, over the grey range."""
    between = _between(mask)
    if not between.any():
        return 0.0
    ordered = np.sort(grey, axis=None, kind="stable")  # radix sort, faster than a percentile
    low, high = ordered[ordered.size // 100], ordered[-1 - ordered.size // 100]
    difference = float(grey[mask].mean()) - float(grey[between].mean())
    return difference / max(1.0, float(high) - float(low))


def _between(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the samples between the lungs, (h, w) bool; none if there are too few."""
    samples = mask.view(np.uint8)
    from_left = np.maximum.accumulate(samples, axis=1)
    from_right = np.maximum.accumulate(samples[:, ::-1], axis=1)[:, ::-1]
    between: NDArray[np.bool_] = (from_left & from_right) > samples
    is_enough = np.count_nonzero(between) >= _SMALLEST_GAP
    return between if is_enough else np.zeros_like(mask)
