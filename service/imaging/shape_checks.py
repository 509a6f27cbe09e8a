"""Warns when a mask does not have the shape, the position or the grey values of two lungs.

A picture that is not an upright, whole, frontal chest X-ray seldom gives an empty mask: the model
finds something lung-like in everything. These rules compare its mask with human masks. Limits
are set on `val` alone; `python -m benchmarks.quality.gating --data DATA` prints how often each
rule warns on good X-rays, on corrupted ones and on pictures of other things.
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
"""The outline is looked at this share of the longer side inside the picture: the model ends a
mask a pixel or two before an edge that cuts through a lung."""
WIDE_MARGIN = 0.02
"""As above, for masks that prove that no lung is cut."""
MAXIMUM_EDGE_SHARE = 0.12
"""Share of the outline that may run along the picture's edge: 2 of the 178 human masks of `val`
have more."""
MAXIMUM_DISTANCE = 7.5
"""Of human masks of `val` 95 % are nearer than 3.4, all nearer than 6.7."""
MAXIMUM_PROPORTION_DEVIATIONS = 4.0
"""Human masks of `val` deviate by 3.3 at the most, sides squeezed to 40 % by 5 and more."""
TURNED_FROM_DISTANCE = 4.5
TURNED_RATIO = 0.8
"""A shape is turned when turning it makes it so much nearer to lungs. An upright mask of `val`
gets 1.9 times farther at the least."""
MAXIMUM_FLAT_SHARE = 0.08
"""Share of the mask that may lie where the picture has one grey value all around."""
INVERTED_FROM = 0.06
"""How much brighter the lungs may be than what lies between them, over the range of grey."""
_FLAT_WINDOW = np.ones((5, 5), np.uint8)
_SMALLEST_GAP = 30  # samples between the lungs from which on they are compared


def check_lung_shapes(grid: MaskGrid, pixels: NDArray[Any] | None) -> list[ImageWarning]:
    """Return warnings on a mask of both lungs.

    Args:
        grid: the mask, not empty.
        pixels: the X-ray, (H, W) uint8 or uint16; None where grey values are not to be judged.
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
        margin: the picture's edge is taken so far inside, as a share of the longer side.
    """
    inside = round(margin * max(mask.shape))
    height, width = mask.shape
    part = mask[inside : height - inside, inside : width - inside]
    edges = (part[0], part[-1], part[:, 0], part[:, -1])
    along = sum(int(np.count_nonzero(edge)) for edge in edges)
    within = np.count_nonzero(part[1:] != part[:-1]) + np.count_nonzero(part[:, 1:] != part[:, :-1])
    return along / max(1, along + int(within))


def shows_whole_lungs(grid: MaskGrid) -> bool:
    """Return whether a mask has two lungs, and its outline stays away from the picture's edges."""
    return len(grid.large_pieces) == 2 and edge_share(grid.mask, WIDE_MARGIN) == 0.0


def are_lungs_dark(grid: MaskGrid, grey: NDArray[Any]) -> bool:
    """Return whether a mask of the shape of lungs lies on darker grey than what lies between them.

    Args:
        grid: the mask.
        grey: the X-ray at the same samples (`mask_grid.sampled`), brighter = denser.

    Returns:
        False as well where that cannot be told.
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
    """Return how much brighter the lungs are than what lies between them, over the grey range."""
    between = _between(mask)
    if not between.any():
        return 0.0
    ordered = np.sort(grey, axis=None, kind="stable")  # by radix: a tenth of a percentile's time
    low, high = ordered[ordered.size // 100], ordered[-1 - ordered.size // 100]
    difference = float(grey[mask].mean()) - float(grey[between].mean())
    return difference / max(1.0, float(high) - float(low))


def _between(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the samples between the lungs, (h, w) bool; none where they are too few."""
    samples = mask.view(np.uint8)
    from_left = np.maximum.accumulate(samples, axis=1)
    from_right = np.maximum.accumulate(samples[:, ::-1], axis=1)[:, ::-1]
    between: NDArray[np.bool_] = (from_left & from_right) > samples
    is_enough = np.count_nonzero(between) >= _SMALLEST_GAP
    return between if is_enough else np.zeros_like(mask)
