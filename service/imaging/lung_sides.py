"""Divide a mask into the patient's right and left lung.

Two lungs are two pieces in every human mask of the data. They are found on a coarse grid; every
other piece and every pixel belongs to the nearer lung. If both lungs touch, the mask is eroded
until it has two pieces. The direction of the patient's left tells which is the right lung, so a
picture whose header says that it is mirrored keeps its sides.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model_store.opencv import cv2
from service.imaging.distances import distances_within, squares_of
from service.imaging.mask_grid import MaskGrid, grid_of

Mask = NDArray[np.bool_]
MOST_EROSION = 8
"""Most samples of erosion to separate touching lungs: 6 % of the longer side."""
SMALLEST_SEED_SHARE = 0.05
"""Least share of the mask that each part must keep during erosion."""
ONE_SIDE_SHARE = 0.80
"""Least share of a single lung in one half of the picture that gives it a side."""
_NEAREST = np.ones((3, 3), np.uint8)


@dataclass(frozen=True)
class LungSides:
    """A mask by the patient's sides; both are None if they are unknown.

    Attributes:
        right: the right lung, (H, W) bool; empty if there is none.
        left: the left lung, likewise.
    """

    right: Mask | None
    left: Mask | None


UNKNOWN_SIDES = LungSides(None, None)


def lung_sides(mask: Mask, towards_left: tuple[int, int] = (1, 0)) -> LungSides:
    """Divide a mask into the patient's lungs.

    Args:
        mask: (H, W) bool.
        towards_left: changes of column and row towards the patient's left.

    Returns:
        Two disjoint masks whose union is the mask. The sides are unknown if the mask is empty, or
        one piece in the middle.
    """
    if not mask.any():
        return LungSides(mask, mask)
    grid = grid_of(mask)
    seeds = _seeds(grid)
    if seeds is None:
        return _single(mask, grid, towards_left)
    is_left = nearer_to_second(*_in_order(seeds, towards_left))
    rows, columns = (
        np.minimum(np.arange(length) // grid.step, samples - 1)
        for length, samples in zip(mask.shape, grid.mask.shape, strict=True)
    )
    # Columns first: whole rows are then copied, in a tenth of the time of single samples.
    left = mask & np.take(np.take(is_left, columns, axis=1), rows, axis=0)
    return LungSides(mask ^ left, left)


def _seeds(grid: MaskGrid) -> tuple[Mask, Mask] | None:
    """Return the two large pieces, eroded if they touch."""
    large = grid.large_pieces
    if len(large) >= 2:
        return grid.labels == large[0], grid.labels == large[1]
    smallest = SMALLEST_SEED_SHARE * np.count_nonzero(grid.mask)
    eroded = grid.mask.view(np.uint8)
    for _ in range(MOST_EROSION):
        smaller = cv2.erode(eroded, _NEAREST, borderType=cv2.BORDER_CONSTANT, borderValue=0)
        eroded = np.asarray(smaller, dtype=np.uint8)
        _, labels, statistics, _ = cv2.connectedComponentsWithStats(eroded, connectivity=4)
        areas = np.asarray(statistics)[1:, cv2.CC_STAT_AREA]
        if np.count_nonzero(areas >= smallest) == 2:
            first, second = np.flatnonzero(areas >= smallest) + 1
            return np.asarray(labels) == first, np.asarray(labels) == second
    return None


def _in_order(seeds: tuple[Mask, Mask], towards_left: tuple[int, int]) -> tuple[Mask, Mask]:
    """Return the right lung's seed, then the left one's."""
    first, second = (_place(seed, towards_left) for seed in seeds)
    return seeds if first <= second else (seeds[1], seeds[0])


def _place(seed: Mask, towards_left: tuple[int, int]) -> float:
    rows, columns = np.nonzero(seed)
    return float(towards_left[0] * columns.mean() + towards_left[1] * rows.mean())


def nearer_to_second(first: Mask, second: Mask) -> Mask:
    """Return the samples that are nearer to the second seed than to the first, (h, w) bool.

    A sample at equal distances belongs to the first.
    """
    away = [squares_of(distances_within(~seed)) for seed in (first, second)]
    nearer: Mask = away[1] < away[0]
    return nearer


def _single(mask: Mask, grid: MaskGrid, towards_left: tuple[int, int]) -> LungSides:
    rows, columns = np.nonzero(grid.mask)
    height, width = grid.mask.shape
    along = towards_left[0] * (columns - (width - 1) / 2) + towards_left[1] * (
        rows - (height - 1) / 2
    )
    share_left = float(np.mean(along > 0))
    nothing = np.zeros_like(mask)
    if share_left >= ONE_SIDE_SHARE:
        return LungSides(nothing, mask)
    if share_left <= 1 - ONE_SIDE_SHARE:
        return LungSides(mask, nothing)
    return UNKNOWN_SIDES
