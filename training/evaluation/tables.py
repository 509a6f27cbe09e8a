"""Summaries of image scores per data set, box and model, never pooled over data sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from training.evaluation.scores import BOXES, MEASURES, ImageScore, values_of
from training.evaluation.statistics import EQUIVALENCE_MARGIN, Summary, compare_paired

SummaryTable = dict[str, dict[str, dict[str, dict[str, Any]]]]
"""``{source: {box: {model: {measure: summary}}}}``; distances also have their ``unit``."""

ComparisonTable = dict[str, dict[str, dict[str, Any]]]
"""``{source: {box: comparison}}``."""


def summarise(scores: Sequence[ImageScore]) -> SummaryTable:
    """Return the spread of every measure that all images of a group have."""
    table: SummaryTable = {}
    for source in sorted({s.source for s in scores}):
        for box in BOXES:
            for model in dict.fromkeys(s.model for s in scores):
                chosen = [s for s in scores if (s.source, s.box, s.model) == (source, box, model)]
                if chosen:
                    table.setdefault(source, {}).setdefault(box, {})[model] = _measures(chosen)
    return table


def _measures(scores: Sequence[ImageScore]) -> dict[str, Any]:
    measures: dict[str, Any] = {}
    for measure in MEASURES:
        values = values_of(scores, measure)
        if values is not None:
            measures[measure] = asdict(Summary.of(values))
            if measure in ("hd95", "assd"):
                measures[measure]["unit"] = scores[0].unit
    return measures


def compare_models(
    scores: Sequence[ImageScore], first: str, second: str, margin: float = EQUIVALENCE_MARGIN
) -> ComparisonTable:
    """Compare the Dice of two models, paired by image, per data set and box.

    Raises:
        ValueError: The two did not segment the same images.
    """
    table: ComparisonTable = {}
    for source in sorted({s.source for s in scores}):
        for box in BOXES:
            group = [s for s in scores if (s.source, s.box) == (source, box)]
            mine = {s.name: s.dice for s in group if s.model == first}
            other = {s.name: s.dice for s in group if s.model == second}
            if mine.keys() != other.keys():
                raise ValueError(f"{first} and {second} have scores of other images of {source}")
            comparison = compare_paired(list(mine.values()), [other[n] for n in mine], margin)
            table.setdefault(source, {})[box] = asdict(comparison)
    return table
