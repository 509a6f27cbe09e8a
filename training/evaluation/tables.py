"""Scores of images put together per data set, box and model, and as text; never pooled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from training.evaluation.scores import BOXES, MEASURES, ImageScore, values_of
from training.evaluation.statistics import EQUIVALENCE_MARGIN, Summary, compare_paired

SummaryTable = dict[str, dict[str, dict[str, dict[str, Any]]]]
"""``{source: {box: {model: {measure: summary}}}}``; distances also say their ``unit``."""

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
        ValueError: The two were not asked about the same images.
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


def format_table(table: Mapping[str, Any]) -> str:
    """Return Dice and IoU as text, a line per data set, box and model."""
    head = (
        f"{'data set':<12} {'box':<12} {'model':<6} {'n':>4}   {'Dice mean':>9} {'median':>7} "
        f"{'5th pc':>7}   {'IoU mean':>8} {'median':>7} {'5th pc':>7}"
    )
    lines = [head, "-" * len(head)]
    for source, box, model, measures in _lines(table):
        d, i = measures["dice"], measures["iou"]
        lines.append(
            f"{source:<12} {box:<12} {model:<6} {d['n']:>4}   "
            f"{d['mean']:>9.4f} {d['median']:>7.4f} {d['percentile_5']:>7.4f}   "
            f"{i['mean']:>8.4f} {i['median']:>7.4f} {i['percentile_5']:>7.4f}"
        )
    return "\n".join(lines)


def format_spread_table(table: Mapping[str, Any]) -> str:
    """Return the spread of every measure as text, a line per data set, box, model and measure."""
    head = (
        f"{'data set':<12} {'box':<12} {'model':<6} {'measure':<22} {'mean':>8} {'SD':>8} "
        f"{'median':>8} {'5th pc':>8} {'95th pc':>8}   {'95 % interval of the mean':<25}"
    )
    lines = [head, "-" * len(head)]
    for source, box, model, measures in _lines(table):
        for measure, s in measures.items():
            label = f"{measure} ({s['unit']})" if "unit" in s else measure
            lines.append(
                f"{source:<12} {box:<12} {model:<6} {label:<22} {s['mean']:>8.4f} {s['sd']:>8.4f} "
                f"{s['median']:>8.4f} {s['percentile_5']:>8.4f} {s['percentile_95']:>8.4f}   "
                f"{format_interval(s['interval']):<25}"
            )
    return "\n".join(lines)


def format_comparison(table: Mapping[str, Any], first: str, second: str) -> str:
    """Return the paired comparison as text, a line per data set and box."""
    head = (
        f"{'data set':<12} {'box':<12} {'n':>4}   {'Dice ' + first + ' - ' + second:>16} "
        f"{'lowest':>8}   {'95 % interval':<18}   {'Wilcoxon p':>10}   {'TOST p':>8}   equal within"
    )
    lines = [head, "-" * len(head)]
    for source, boxes in table.items():
        for box, c in boxes.items():
            p = "-" if c["tost_p"] is None else f"{c['tost_p']:.2g}"
            equal = f"{'yes' if c['equivalent'] else 'not shown'}, {c['margin']:g}"
            lines.append(
                f"{source:<12} {box:<12} {c['n']:>4}   {c['mean']:>+16.5f} {c['lowest']:>+8.4f}   "
                f"{format_interval(c['interval'], 5, sign=True):<18}   {c['wilcoxon_p']:>10.2g}   "
                f"{p:>8}   {equal}"
            )
    return "\n".join(lines)


def format_interval(
    interval: Sequence[float] | None, digits: int = 4, *, sign: bool = False
) -> str:
    """Return ``low to high``, or a dash where there is none."""
    if interval is None:
        return "-"
    spec = f"{'+' if sign else ''}.{digits}f"
    return f"{interval[0]:{spec}} to {interval[1]:{spec}}"


def _lines(table: Mapping[str, Any]) -> list[tuple[str, str, str, dict[str, Any]]]:
    return [
        (source, box, model, measures)
        for source, boxes in table.items()
        for box, models in boxes.items()
        for model, measures in models.items()
    ]
