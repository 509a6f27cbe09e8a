"""An evaluation as text for the terminal: the requested tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from training.evaluation.box_jitter import DRAWS, jitter_labels
from training.evaluation.evaluation import Evaluation


def format_evaluation(found: Evaluation) -> str:
    """Return every table of an evaluation."""
    parts = [format_table(found.table)]
    if any("nsd" in measures for _, _, _, measures in _lines(found.table)):
        parts.append(format_spread_table(found.table))
    if found.comparison:
        parts.append(format_comparison(found.comparison, found.label, "fp32"))
    if found.similarity:
        parts.append(format_similarity(found.similarity))
    if found.jitter:
        parts.append(format_jitter(found.jitter))
    return "\n\n".join(parts)


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
        f"{'data set':<12} {'box':<12} {'n':>4}   {'Dice ' + first + '-' + second:>16} "
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


def format_similarity(table: Mapping[str, Any]) -> str:
    """Return SSIM of the probability maps as text, a line per data set."""
    head = (
        f"{'data set':<12} {'n':>4}   {'SSIM, whole: mean':>17} {'5th pc':>8}   "
        f"{'in the band: mean':>17} {'5th pc':>8}"
    )
    lines = [head, "-" * len(head)]
    for source, found in table.items():
        whole, band = found["ssim_whole"], found["ssim_band"]
        lines.append(
            f"{source:<12} {whole['n']:>4}   {whole['mean']:>17.5f} {whole['percentile_5']:>8.5f}"
            f"   {band['mean']:>17.5f} {band['percentile_5']:>8.5f}"
        )
    return "\n".join(lines)


def format_jitter(table: Mapping[str, Any]) -> str:
    """Return mean Dice and 5th percentile against box jitter as text, a line per data set."""
    head = f"{'Dice, mean (5th pc)':<20} " + " ".join(f"{x:>15}" for x in jitter_labels())
    lines = [f"{head}   {DRAWS} boxes per X-ray and jitter", "-" * len(head)]
    for source, found in table.items():
        cells = " ".join(
            f"{found[x]['mean']:>7.4f} ({found[x]['percentile_5']:.3f})" for x in jitter_labels()
        )
        lines.append(f"{source:<20} {cells}")
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
