"""Measurements of lungs and heart on one X-ray: area, height, width, grey values, ratios.

Lengths are along the picture's rows and columns. In mm they are as accurate as the pixel size in
the header: on the detector the patient is magnified by some 5 to 15 %. Grey values are those of the
decoded picture, brighter for denser tissue. They serve to compare the lungs of one X-ray, and not
different X-rays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
    right, left = (
        None if one is None else _counted(one, pixels) for one in (sides.right, sides.left)
    )
    is_sided = right is not None and left is not None
    right_px, left_px = (0 if one is None else one.area_px for one in (right, left))
    both_px = right_px + left_px
    both = _counted(mask, pixels) if right is None or left is None else right.with_other(left)
    return Measurements(
        box_index=box_index,
        spacing=None if spacing is None else _used(spacing),
        lungs=both.measured(spacing),
        right_lung=None if right is None else right.measured(spacing),
        left_lung=None if left is None else left.measured(spacing),
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
    return _counted(mask, pixels).measured(spacing)


@dataclass(frozen=True)
class _Counted:
    """What all figures of a structure follow from.

    Attributes:
        rows: its first row and the row after its last; equal without a pixel.
        columns: likewise.
        counts: pixels of each grey value, up to the highest one.
    """

    rows: tuple[int, int]
    columns: tuple[int, int]
    counts: NDArray[np.int64]

    @property
    def area_px(self) -> int:
        return int(self.counts.sum())

    def with_other(self, other: _Counted) -> _Counted:
        """Return the union with a structure that shares no pixel."""
        if not self.area_px or not other.area_px:
            return self if self.area_px else other
        counts = np.zeros(max(self.counts.size, other.counts.size), np.int64)
        for one in (self, other):
            counts[: one.counts.size] += one.counts
        rows, columns = zip(*((one.rows, one.columns) for one in (self, other)), strict=True)
        return _Counted(_around(rows), _around(columns), counts)

    def measured(self, spacing: PixelSpacing | None) -> StructureMeasurements:
        """Return the figures; `spacing` is the size of a pixel, None where it is not known."""
        area_px = self.area_px
        height_px, width_px = (last - first for first, last in (self.rows, self.columns))
        grey = _grey_values(self.counts, area_px)
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


def _counted(mask: Mask, pixels: NDArray[Any]) -> _Counted:
    """Count within the rectangle around the structure: a lung's is a quarter of the picture."""
    rows = _span(np.asarray(mask.any(axis=1)))
    columns = _span(np.asarray(mask[slice(*rows)].any(axis=0)))
    around = slice(*rows), slice(*columns)
    return _Counted(rows, columns, np.bincount(pixels[around][mask[around]]))


def _used(spacing: PixelSpacing) -> UsedSpacing:
    return UsedSpacing(
        row_mm=spacing.row_mm,
        column_mm=spacing.column_mm,
        source=spacing.keyword,
        plane=spacing.plane,
    )


def _extent(present: NDArray[np.bool_]) -> int:
    first, last = _span(present)
    return last - first


def _span(present: NDArray[np.bool_]) -> tuple[int, int]:
    """Return the first place and the one after the last; 0 and 0 without any."""
    places = np.flatnonzero(present)
    return (int(places[0]), int(places[-1]) + 1) if places.size else (0, 0)


def _around(spans: Sequence[tuple[int, int]]) -> tuple[int, int]:
    return min(first for first, _ in spans), max(last for _, last in spans)


def _grey_values(counts: NDArray[np.int64], area_px: int) -> dict[str, float | None]:
    """Return mean, deviation and percentiles from counts: sorting takes five times as long."""
    names = ("grey_mean", "grey_sd", "grey_p5", "grey_p50", "grey_p95")
    if area_px == 0:
        return dict.fromkeys(names)
    levels = np.arange(counts.size, dtype=np.float64)
    mean = float(counts @ levels) / area_px
    variance = float(counts @ (levels - mean) ** 2) / area_px
    cumulative = np.cumsum(counts)
    percentiles = [
        float(np.searchsorted(cumulative, share * area_px)) for share in (0.05, 0.5, 0.95)
    ]
    return dict(zip(names, map(_rounded, (mean, variance**0.5, *percentiles)), strict=True))


def _rounded(value: float) -> float:
    return round(value, _DIGITS)
