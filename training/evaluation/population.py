"""Numbers of a stored model over many X-rays, as a reference for others.

`distributions` gives the distributions of grey level, size, confidence and area ratio over the
training X-rays, to detect drift later. `groups` gives the quality of masks by age group, by patient
and by the view of portable X-rays. Both segment the whole image, in each X-ray's own convention.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_store.conventions import Convention
from model_store.geometry import window_to_uint8
from model_store.manifest import Distribution
from model_store.predictor import PredictionRequest, Predictor
from training.data.dataset import DataRow, load_xray
from training.evaluation.metrics import dice

UNDECIDED = 0.94
"""Confidence below which the service warns of `undecided_mask`."""
_SHARES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
_DIGITS = 5


@dataclass(frozen=True)
class SegmentedXray:
    """One X-ray and its mask.

    Attributes:
        source: the data set.
        patient: the patient, or the X-ray itself.
        grey_level: mean of the grey values that the network sees, 0..255.
        pixels: width times height.
        confidence: soft Dice confidence of the mask.
        area_ratio: share of the picture that the mask covers.
        dice: Dice with the human mask; None without one.
    """

    source: str
    patient: str
    grey_level: float
    pixels: int
    confidence: float
    area_ratio: float
    dice: float | None


def segment_row(predictor: Predictor, row: DataRow) -> SegmentedXray:
    """Segment an annotated X-ray."""
    xray = load_xray(row)
    image, mask = xray.image, xray.mask
    return segment_xray(predictor, image, row.convention, row.source, row.group, mask)


def segment_xray(
    predictor: Predictor, image: NDArray[np.uint8], convention: Convention, source: str,
    patient: str, truth: NDArray[np.bool_] | None = None,
) -> SegmentedXray:  # fmt: skip
    """Segment an image, uint8 (H, W), with no box."""
    (found,) = predictor.predict(PredictionRequest(image, convention=convention)).masks
    return SegmentedXray(
        source=source,
        patient=patient,
        grey_level=float(window_to_uint8(image).mean()),
        pixels=image.size,
        confidence=found.confidence,
        area_ratio=float(found.mask.mean()),
        dice=None if truth is None else dice(found.mask, truth),
    )


def distributions(found: Sequence[SegmentedXray]) -> dict[str, Distribution]:
    """Return the distribution of each number over X-rays."""
    names = ("grey_level", "pixels", "confidence", "area_ratio")
    return {name: _distribution([float(getattr(one, name)) for one in found]) for name in names}


def groups(annotated: Sequence[SegmentedXray], children: Collection[str]) -> list[dict[str, Any]]:
    """Return a line for each age group, one for all patients and one for those with several X-rays.

    Args:
        annotated: X-rays with the masks of people.
        children: data sets that show children.
    """
    by_patient = defaultdict(list)
    for one in annotated:
        by_patient[one.source, one.patient].append(one)
    young = [one for one in annotated if one.source in children]
    old = [one for one in annotated if one.source not in children]
    several = [ones for ones in by_patient.values() if len(ones) > 1]
    lines = [
        group_of("children", young),
        group_of("adults", old),
        group_of("each patient's mean", map(_mean_of, by_patient.values())),
        group_of("... with several X-rays", map(_mean_of, several)),
    ]
    return [line for line in lines if line["n"]]


def group_of(name: str, members: Iterable[SegmentedXray]) -> dict[str, Any]:
    """Return one line: number, Dice if annotated, confidence, undecided masks."""
    found = list(members)
    scores = [one.dice for one in found if one.dice is not None]
    confidences = [one.confidence for one in found]
    line: dict[str, Any] = {"group": name, "n": len(found)}
    if not found:
        return line
    if scores:
        line |= {
            "dice_mean": _rounded(np.mean(scores)),
            "dice_median": _rounded(np.median(scores)),
            "dice_percentile_5": _rounded(np.percentile(scores, 5)),
            "dice_lowest": _rounded(min(scores)),
        }
    undecided = float(np.mean([value < UNDECIDED for value in confidences]))
    return line | {
        "confidence_median": _rounded(np.median(confidences)),
        "undecided": _rounded(undecided),
    }


def _mean_of(ones: Sequence[SegmentedXray]) -> SegmentedXray:
    first = ones[0]
    means = {
        name: float(np.mean([getattr(one, name) for one in ones]))
        for name in ("grey_level", "confidence", "area_ratio", "dice")
    }
    return SegmentedXray(first.source, first.patient, pixels=first.pixels, **means)


def _distribution(values: Sequence[float]) -> Distribution:
    quantiles = np.quantile(values, _SHARES)
    return Distribution(
        n=len(values),
        mean=_rounded(np.mean(values)),
        deviation=_rounded(np.std(values)),
        quantiles={
            f"{share:g}": _rounded(value) for share, value in zip(_SHARES, quantiles, strict=True)
        },
    )


def _rounded(value: Any) -> float:
    return round(float(value), _DIGITS)
