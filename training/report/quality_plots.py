"""Plots of quality: Dice per image, INT8 against FP32, Dice against box jitter."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from training.evaluation.box_jitter import JITTERS, JitterTable
from training.evaluation.evaluation import Evaluation
from training.evaluation.statistics import EQUIVALENCE_MARGIN
from training.report.figures import BLUE, GREEN, GREY, MODEL_COLOURS, ORANGE, PINK, new_axes

_SOURCE_COLOURS = (BLUE, ORANGE, GREEN, PINK, GREY, "#E69F00", "#56B4E9")


def draw_dice_per_image(found: Evaluation) -> Figure:
    """Draw a box and a point per image for each data set, the models side by side."""
    figure, (axis,) = new_axes(size=(9.0, 3.8))
    sources, models = list(found.table), list(dict.fromkeys(s.model for s in found.scores))
    width = 0.8 / len(models)
    rng = np.random.default_rng(0)
    for place, model in enumerate(models):
        colour = MODEL_COLOURS.get(model, GREY)
        for column, source in enumerate(sources):
            key = (source, model, "own_box")
            values = [s.dice for s in found.scores if (s.source, s.model, s.box) == key]
            x = column + (place - (len(models) - 1) / 2) * width
            axis.boxplot(
                values, positions=[x], widths=0.8 * width, showfliers=False, whis=(5, 95),
                medianprops={"color": colour, "linewidth": 2}, boxprops={"color": colour},
                whiskerprops={"color": colour}, capprops={"color": colour}, manage_ticks=False,
            )  # fmt: skip
            spread = x + rng.uniform(-0.25, 0.25, len(values)) * width
            label = model.upper() if column == 0 else None
            axis.scatter(spread, values, s=7, alpha=0.35, color=colour, linewidths=0, label=label)
    axis.set_xticks(range(len(sources)), sources)
    axis.set_ylabel("Dice (1 = equal to the annotator's mask)")
    axis.grid(axis="x", visible=False)
    axis.legend(loc="lower right", ncols=len(models), markerscale=2)
    return figure


def draw_paired_differences(found: Evaluation, margin: float = EQUIVALENCE_MARGIN) -> Figure:
    """Draw the difference of each image against the mean of both models (Bland and Altman)."""
    figure, (axis,) = new_axes(size=(9.0, 3.6))
    mine = {(s.source, s.name): s.dice for s in _own_box(found, found.label)}
    other = {(s.source, s.name): s.dice for s in _own_box(found, "fp32")}
    axis.axhspan(-margin, margin, color=GREEN, alpha=0.12, label=f"margin ±{margin:g}")
    axis.axhline(0, color=GREY, linewidth=0.8)
    for colour, source in zip(_cycle(len(found.table)), found.table, strict=True):
        keys = [key for key in mine if key[0] == source]
        mean = [(mine[key] + other[key]) / 2 for key in keys]
        axis.scatter(mean, [mine[k] - other[k] for k in keys], s=14, color=colour, label=source)
    axis.set_xlabel("mean Dice of both models")
    axis.set_ylabel(f"Dice {found.label.upper()} minus FP32")
    axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def _own_box(found: Evaluation, model: str):  # type: ignore[no-untyped-def]
    return [s for s in found.scores if s.model == model and s.box == "own_box"]


def _cycle(count: int) -> list[str]:
    return [_SOURCE_COLOURS[i % len(_SOURCE_COLOURS)] for i in range(count)]


def draw_jitter(table: JitterTable) -> Figure:
    """Draw mean Dice and 5th percentile against box jitter, with the whole image at the right."""
    figure, axes = new_axes(2, size=(9.0, 3.4))
    shares = [100 * share for share in JITTERS]
    whole = shares[-1] + 6
    for axis, key, title in zip(
        axes, ("mean", "percentile_5"), ("Mean", "5th percentile"), strict=True
    ):
        for colour, (source, found) in zip(_cycle(len(table)), table.items(), strict=True):
            values = [found[f"{share:.0%}"][key] for share in JITTERS]
            axis.plot(shares, values, marker="o", color=colour, label=source)
            axis.plot([whole], [found["whole_image"][key]], marker="s", color=colour)
        axis.set_xticks([*shares, whole], [*(f"{s:.0f}" for s in shares), "whole\nimage"])
        axis.set_xlabel("farthest move of an edge (% of the box's side)")
        axis.set_title(title)
    axes[0].set_ylabel("Dice")
    axes[1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure
