"""Distances between the outlines of two masks: NSD, HD95 and ASSD in one pass.

MONAI's functions of the same names are the definition; tests require equal results. Each of MONAI's
functions finds outlines and distances again; here the three measures share them.

Lengths are in millimetres if the pixel spacing is known. Otherwise they are in pixels of the image
scaled to a longest side of 512, to compare X-rays of different resolutions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

REFERENCE_SIDE = 512
"""Longest side, in pixels, that defines the unit of length for images without known spacing."""

MILLIMETRE, REFERENCE_PIXEL = "mm", f"px at {REFERENCE_SIDE}"
"""The two units of length."""

TOLERANCE = {MILLIMETRE: 2.0, REFERENCE_PIXEL: 2.0}
"""Tolerance of NSD, by unit. At 512 pixels two pixels are 1.4 to 1.7 mm of an X-ray of 35 to 43
cm."""


@dataclass(frozen=True)
class SurfaceScores:
    """Distances between two outlines.

    Attributes:
        nsd: Normalised surface Dice (surface Dice at tolerance): share of both outlines within the
            tolerance of the other, 0..1. Nikolov et al., J Med Internet Res 2021.
        hd95: Robust Hausdorff distance: the larger of the two directed 95th percentiles.
        assd: Average symmetric surface distance: mean over the pixels of both outlines.
        unit: Unit of the two distances and of the tolerance.
    """

    nsd: float
    hd95: float
    assd: float
    unit: str


def surface_scores(
    predicted: NDArray[np.bool_], true: NDArray[np.bool_], spacing_mm: float | None = None
) -> SurfaceScores:
    """Compare the outlines of two masks.

    Two empty masks agree: NSD 1, distances 0. If only one is empty, NSD is 0 and both distances are
    the diagonal of the image, the largest possible distance.

    Args:
        predicted: bool (H, W).
        true: bool (H, W).
        spacing_mm: Side of a pixel in millimetres, if known.

    Raises:
        ValueError: The shapes differ, or the spacing is not positive.
    """
    if predicted.shape != true.shape:
        raise ValueError(f"masks are {predicted.shape} and {true.shape}; they must be of one shape")
    if spacing_mm is not None and not spacing_mm > 0:
        raise ValueError(f"pixel spacing is {spacing_mm} mm; it must be positive")
    unit = REFERENCE_PIXEL if spacing_mm is None else MILLIMETRE
    pixel = REFERENCE_SIDE / max(true.shape) if spacing_mm is None else spacing_mm
    first, second = _outline(predicted), _outline(true)
    if len(first) == 0 or len(second) == 0:
        if len(first) == len(second):
            return SurfaceScores(1.0, 0.0, 0.0, unit)
        diagonal = float(np.hypot(*true.shape)) * pixel
        return SurfaceScores(0.0, diagonal, diagonal, unit)
    forward = KDTree(second).query(first)[0] * pixel
    backward = KDTree(first).query(second)[0] * pixel
    both = np.concatenate([forward, backward])
    return SurfaceScores(
        nsd=float((both <= TOLERANCE[unit]).mean()),
        hd95=float(max(np.percentile(forward, 95), np.percentile(backward, 95))),
        assd=float(both.mean()),
        unit=unit,
    )


def _outline(mask: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Return pixels (N, 2) of a mask with a neighbour outside it or beyond the image."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows) == 0:
        return np.empty((0, 2), dtype=np.intp)
    cut = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    around = np.pad(cut, 1)
    inner = around[:-2, 1:-1] & around[2:, 1:-1] & around[1:-1, :-2] & around[1:-1, 2:]
    points: NDArray[np.intp] = np.argwhere(cut & ~inner) + np.array([rows[0], columns[0]])
    return points
