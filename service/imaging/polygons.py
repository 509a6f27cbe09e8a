"""A mask as polygons: rings along the edges of its pixels, with holes.

Pixel i covers i to i + 1, as for boxes, so a ring without simplification encloses exactly the
mask's pixels. Outer rings run clockwise on the screen, holes counter-clockwise. Pixels that touch
only at a corner belong to different rings. OpenCV's contours run through pixel centres, so their
area lacks half a pixel all around, 1 % of a lung.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from model_store.opencv import cv2

TOLERANCE_PX = 1.0
"""Largest distance by which simplification moves a point of a ring (Douglas and Peucker 1973)."""

Mask = NDArray[np.bool_]
Ring = NDArray[np.int32]
Polygon = list[list[tuple[int, int]]]


def polygons_of(mask: Mask, tolerance_px: float = TOLERANCE_PX) -> list[Polygon]:
    """Return the polygons of a mask, the largest first.

    Args:
        mask: (H, W) bool.
        tolerance_px: largest distance of the rings from the pixels' edges; 0 keeps every corner.

    Returns:
        Each polygon is its outer ring and then its holes; each ring its corners (x, y) in pixels,
        the first one not repeated.
    """
    rings = rings_of(mask)
    areas = [_signed_area(ring) for ring in rings]
    outer = sorted(
        ((area, ring) for area, ring in zip(areas, rings, strict=True) if area > 0),
        key=lambda one: -one[0],
    )
    polygons = [[_simplified(ring, tolerance_px)] for _, ring in outer]
    for area, hole in zip(areas, rings, strict=True):
        if area < 0:
            around = _around(hole, [ring for _, ring in outer])
            polygons[around].append(_simplified(hole, tolerance_px))
    return polygons


def rings_of(mask: Mask) -> list[Ring]:
    """Return the closed rings along a mask's edges, each with all of its corners, (n, 2) x, y."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return []
    top, left = int(rows[0]), int(columns[0])
    window = mask[top : rows[-1] + 1, left : columns[-1] + 1]
    starts, ends, ways = _edges(np.pad(window, 1).astype(np.int8))
    following = _following(starts, ends, ways)
    width = window.shape[1] + 3
    corner = ways[following] != ways  # an edge that ends in a corner
    rings = []
    for path in _cycles(following.tolist()):
        edges = np.array(path)
        at = ends[edges[corner[edges]]]
        rings.append(
            np.stack([at % width + (left - 1), at // width + (top - 1)], axis=1).astype(np.int32)
        )
    return rings


def _edges(
    padded: NDArray[np.int8],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return start, end and direction of each pixel edge, with the mask on its right.

    Directions are 0 right, 1 down, 2 left, 3 up. A vertex is numbered by row and column.
    """
    width = padded.shape[1] + 1
    starts, ends, ways = [], [], []
    across, along = np.diff(padded, axis=0), np.diff(padded, axis=1)
    for steps, sign, way in ((across, 1, 0), (along, -1, 1), (across, -1, 2), (along, 1, 3)):
        rows, columns = np.nonzero(steps == sign)
        if way in (0, 2):
            first = (rows + 1) * width + columns
            begin, end = (first, first + 1) if way == 0 else (first + 1, first)
        else:
            first = rows * width + columns + 1
            begin, end = (first, first + width) if way == 1 else (first + width, first)
        starts.append(begin)
        ends.append(end)
        ways.append(np.full(rows.size, way))
    return np.concatenate(starts), np.concatenate(ends), np.concatenate(ways)


def _following(
    starts: NDArray[np.int64], ends: NDArray[np.int64], ways: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the edge after each; of two, the right turn, which stays at its pixel."""
    order = np.argsort(starts, kind="stable")
    first = np.searchsorted(starts[order], ends)
    last = np.searchsorted(starts[order], ends, side="right") - 1
    one, other = order[first], order[last]
    turns_right = ways[other] == (ways + 1) % 4
    following: NDArray[np.int64] = np.where(turns_right, other, one)
    return following


def _cycles(following: list[int]) -> list[list[int]]:
    """Return the cycles of a permutation."""
    is_met = bytearray(len(following))
    cycles = []
    for start in range(len(following)):
        path, place = [], start
        while not is_met[place]:
            is_met[place] = 1
            path.append(place)
            place = following[place]
        if path:
            cycles.append(path)
    return cycles


def _signed_area(ring: Ring) -> float:
    """Return the enclosed pixels, above 0 for an outer ring."""
    x, y = ring[:, 0].astype(np.float64), ring[:, 1].astype(np.float64)
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def _around(hole: Ring, outer: list[Ring]) -> int:
    """Return the outer ring of a hole: the smallest one around it."""
    x, y = (float(value) for value in hole[0])
    holding = [n for n, ring in enumerate(outer) if cv2.pointPolygonTest(ring, (x, y), False) >= 0]
    return holding[-1]


def _simplified(ring: Ring, tolerance_px: float) -> list[tuple[int, int]]:
    if tolerance_px > 0:
        shorter = np.asarray(cv2.approxPolyDP(ring, tolerance_px, True), np.int32)[:, 0]
        ring = shorter if len(shorter) > 2 else ring
    return [(int(x), int(y)) for x, y in ring]
