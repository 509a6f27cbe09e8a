"""Measurements of lungs and heart on one X-ray: area, height, width, grey values, ratios.

Lengths are along the picture's rows and columns. In mm they are as accurate as the pixel size in
the header: on the detector the patient is magnified by some 5 to 15 %. Grey values are those of the
decoded picture, brighter for denser tissue. They serve to compare the lungs of one X-ray, and not
different X-rays.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.imaging.answer_schema import (
    CardiothoracicRatio,
    Measurements,
    StructureMeasurements,
    UsedSpacing,
)
from service.imaging.dicom_plane import PixelSpacing
from service.imaging.image_scale import ImageScale
from service.imaging.lung_sides import LungSides

Mask = NDArray[np.bool_]
_DIGITS = 4


def measure_lungs(
    box_index: int,
    mask: Mask,
    sides: LungSides,
    pixels: NDArray[Any],
    scale: ImageScale,
    heart: Mask | None = None,
) -> Measurements:
    """Measure the lungs of one box, and the heart.

    Args:
        box_index: index of the box in the request.
        mask: both lungs, (H, W) bool.
        sides: the lungs by the patient's sides.
        pixels: the X-ray, (H, W) uint8 or uint16.
        scale: how pixels relate to the patient.
        heart: (H, W) bool; None if it is not to be measured.
    """
    spacing = scale.spacing
    right, left = sides.right, sides.left
    is_sided = right is not None and left is not None
    right_px, left_px = (0 if one is None else int(np.count_nonzero(one)) for one in (right, left))
    both_px = right_px + left_px
    return Measurements(
        box_index=box_index,
        spacing=None if spacing is None else _used(spacing),
        lungs=measure_structure(mask, pixels, spacing),
        right_lung=None if right is None else measure_structure(right, pixels, spacing),
        left_lung=None if left is None else measure_structure(left, pixels, spacing),
        area_ratio=_rounded(right_px / left_px) if right_px and left_px else None,
        asymmetry=_rounded((right_px - left_px) / both_px) if is_sided and both_px else None,
        heart=None if heart is None else measure_structure(heart, pixels, spacing),
        cardiothoracic=None
        if heart is None or not (right_px and left_px)
        else cardiothoracic_ratio(heart, mask, scale),
    )


def cardiothoracic_ratio(heart: Mask, lungs: Mask, scale: ImageScale) -> CardiothoracicRatio | None:
    """Return the widest heart over the widest inner thorax; None without a heart.

    Danzer, "The cardiothoracic ratio: an index of cardiac enlargement", Am J Med Sci 1919;157:513:
    the heart's largest transverse diameter over the largest inner diameter of the thorax. Both are
    measured between outermost columns. The lungs' outer edges stand for the inner edges of the
    ribs, as in the masks that evaluate the ratio
    (`python -m benchmarks.quality.portable_xrays --hearts`).

    Args:
        heart: the heart, (H, W) bool, upright.
        lungs: both lungs, likewise, not empty.
        scale: how pixels relate to the patient.
    """
    heart_px, thorax_px = (_extent(np.asarray(one.any(axis=0))) for one in (heart, lungs))
    if not heart_px:
        return None
    column_mm = None if scale.spacing is None else scale.spacing.column_mm
    return CardiothoracicRatio(
        ratio=_rounded(heart_px / thorax_px),
        heart_width_px=heart_px,
        thorax_width_px=thorax_px,
        heart_width_mm=None if column_mm is None else _rounded(heart_px * column_mm),
        thorax_width_mm=None if column_mm is None else _rounded(thorax_px * column_mm),
        projection=scale.projection,
    )


def measure_structure(
    mask: Mask, pixels: NDArray[Any], spacing: PixelSpacing | None
) -> StructureMeasurements:
    """Measure one structure.

    Args:
        mask: (H, W) bool.
        pixels: the X-ray, (H, W) uint8 or uint16.
        spacing: size of a pixel; None where it is not known.
    """
    area_px = int(np.count_nonzero(mask))
    height_px, width_px = (_extent(np.asarray(mask.any(axis=axis))) for axis in (1, 0))
    grey = _grey_values(pixels[mask])
    if spacing is None:
        return StructureMeasurements(
            area_px=area_px, area_mm2=None, height_px=height_px, height_mm=None,
            width_px=width_px, width_mm=None, **grey,
        )  # fmt: skip
    return StructureMeasurements(
        area_px=area_px,
        area_mm2=_rounded(area_px * spacing.row_mm * spacing.column_mm),
        height_px=height_px,
        height_mm=_rounded(height_px * spacing.row_mm),
        width_px=width_px,
        width_mm=_rounded(width_px * spacing.column_mm),
        **grey,
    )


def _used(spacing: PixelSpacing) -> UsedSpacing:
    return UsedSpacing(
        row_mm=spacing.row_mm,
        column_mm=spacing.column_mm,
        source=spacing.keyword,
        plane=spacing.plane,
    )


def _extent(present: NDArray[np.bool_]) -> int:
    places = np.flatnonzero(present)
    return int(places[-1] - places[0] + 1) if places.size else 0


def _grey_values(values: NDArray[Any]) -> dict[str, float | None]:
    """Return mean, deviation and percentiles from counts: sorting takes five times as long."""
    names = ("grey_mean", "grey_sd", "grey_p5", "grey_p50", "grey_p95")
    if values.size == 0:
        return dict.fromkeys(names)
    counts = np.bincount(values)
    levels = np.arange(counts.size, dtype=np.float64)
    mean = float(counts @ levels) / values.size
    variance = float(counts @ (levels - mean) ** 2) / values.size
    cumulative = np.cumsum(counts)
    percentiles = [
        float(np.searchsorted(cumulative, share * values.size)) for share in (0.05, 0.5, 0.95)
    ]
    return dict(zip(names, map(_rounded, (mean, variance**0.5, *percentiles)), strict=True))


def _rounded(value: float) -> float:
    return round(value, _DIGITS)
