"""Plots of the effects of quantization: on weights, layers, and places in the chest."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from training.evaluation.mask_difference import (
    DISTANCE_EDGES,
    FRAME_MARGIN,
    FRAME_SIDE,
    MaskDifference,
)
from training.quantization.activation_error import LayerNoise
from training.quantization.weight_error import (
    LayerWeights,
    correlation,
    error_by_magnitude,
    error_in_steps,
    moments,
)
from training.report.figures import BLUE, GREEN, GREY, ORANGE, new_axes

_SHOWN_STEPS = 2.5  # the outermost bars include larger errors


def draw_weight_scatter(layers: list[LayerWeights]) -> Figure:
    """Draw stored against floating weights of all layers; darker for more weights."""
    figure, (axis,) = new_axes(size=(4.8, 4.2))
    floating = np.concatenate([x.floating for x in layers])
    stored = np.concatenate([x.stored for x in layers])
    limit = float(np.percentile(abs(floating), 99.99))
    axis.plot([-limit, limit], [-limit, limit], color=ORANGE, linewidth=0.8, zorder=3)
    cells = axis.hexbin(
        floating, stored, gridsize=80, bins="log", cmap="Blues", mincnt=1,
        extent=(-limit, limit, -limit, limit),
    )  # fmt: skip
    figure.colorbar(cells, ax=axis, label="weights per cell")
    axis.set_xlabel("FP32 weight")
    axis.set_ylabel("INT8 weight (integer × scale)")
    axis.set_title(f"{len(floating):,} weights, r = {correlation(layers):.6f}")
    axis.set_aspect("equal")
    return figure


def draw_error_histograms(layers: list[LayerWeights]) -> Figure:
    """Draw the errors in steps with the fitted Gaussian: as stored, and rounding alone."""
    figure, axes = new_axes(2, size=(9.0, 3.4))
    bars = np.linspace(-_SHOWN_STEPS, _SHOWN_STEPS, 101)
    titles = ("Stored: rounding and what stage 2 moved", "Rounding alone")
    for axis, alone, title in zip(axes, (False, True), titles, strict=True):
        errors = error_in_steps(layers, rounding_alone=alone)
        found = moments(errors)
        shown = np.clip(errors, -_SHOWN_STEPS, _SHOWN_STEPS)
        axis.hist(shown, bars, density=True, color=GREY if alone else BLUE, alpha=0.6)
        if found.sd > 0:
            curve = stats.norm.pdf(bars, found.mean, found.sd)
            axis.plot(bars, curve, color=ORANGE, label="Gaussian fit")
            axis.legend(loc="upper right")
        axis.set_xlabel("error (steps of the channel's integers)")
        axis.set_title(title)
    axes[0].set_ylabel("density")
    return figure


def draw_error_by_magnitude(layers: list[LayerWeights]) -> Figure:
    """Draw the root mean square error against the size of the weight, both in steps."""
    figure, (axis,) = new_axes(size=(4.6, 4.2))
    for alone, colour, label in ((False, BLUE, "stored"), (True, GREY, "rounding alone")):
        centres, errors = error_by_magnitude(layers, rounding_alone=alone)
        axis.plot(centres, errors, marker="o", markersize=4, color=colour, label=label)
    axis.axhline(1 / math.sqrt(12), color=ORANGE, linestyle="--", label="uniform error, 1/√12")
    axis.set_xlabel("size of the FP32 weight (steps)")
    axis.set_ylabel("RMS error (steps)")
    axis.set_ylim(bottom=0)
    axis.legend()
    return figure


def draw_layer_snr(layers: Sequence[LayerWeights], noise: Mapping[str, LayerNoise]) -> Figure:
    """Draw the signal-to-noise ratios of every layer, in the order of the network."""
    figure, axes = new_axes(2, size=(9.0, 1.4 + 0.17 * len(layers)))
    names = [x.name for x in layers]
    rows = np.arange(len(names))
    left, right = axes
    left.plot([x.rounded_snr_db for x in layers], rows, "o", color=GREY, label="rounding alone")
    left.plot([x.stored_snr_db for x in layers], rows, "o", color=BLUE, label="stored")
    left.set_title("Weights")
    right.plot([noise[n].own_snr_db for n in names], rows, "o", color=GREEN, label="layer alone")
    right.plot(
        [noise[n].running_snr_db for n in names], rows, "o", color=ORANGE, label="model up to here"
    )
    right.set_title("Outputs")
    for axis in axes:
        axis.set_xlabel("signal-to-noise ratio (dB, more is better)")
        axis.set_ylim(len(names) - 0.5, -0.5)
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.5 / len(names) - 0.05), ncols=2)
    left.set_yticks(rows, [short_name(name) for name in names], fontsize=7)
    right.set_yticks(rows, [])
    return figure


def short_name(layer: str) -> str:
    """Return a layer's name without the common prefix of its part."""
    name = layer.replace("image_encoder.", "").replace("mask_decoder.", "decoder.")
    return name.replace("output_hypernetworks_mlps", "hyper").replace("transformer.", "")


def draw_difference_map(found: MaskDifference) -> Figure:
    """Draw how often the two models differ at each position of the normalised chest."""
    figure, (axis,) = new_axes(size=(4.6, 4.2))
    share = 100 * found.differing / max(found.count, 1)
    picture = axis.imshow(share, cmap="magma", vmin=0, vmax=max(float(share.max()), 1e-6))
    lungs = found.lungs / max(found.count, 1)
    if lungs.min() < 0.5 < lungs.max():
        axis.contour(lungs, [0.5], colors="white", linewidths=0.8)
    figure.colorbar(picture, ax=axis, label="X-rays on which masks differ (%)")
    edge = FRAME_SIDE * FRAME_MARGIN / (1 + 2 * FRAME_MARGIN)
    ticks = [edge - 0.5, FRAME_SIDE / 2 - 0.5, FRAME_SIDE - edge - 0.5]
    axis.set_xticks(ticks, ["0", "50", "100"])
    axis.set_yticks(ticks, ["0", "50", "100"])
    axis.set_xlabel("across the lungs' box (%)")
    axis.set_ylabel("down the lungs' box (%)")
    axis.grid(visible=False)
    return figure


def draw_difference_by_distance(found: MaskDifference) -> Figure:
    """Draw the share of differing pixels against the distance to FP32's outline."""
    figure, (axis,) = new_axes(size=(4.8, 4.2))
    centres = (DISTANCE_EDGES[:-1] + DISTANCE_EDGES[1:]) / 2
    pixels = np.maximum(found.pixels, 1)
    for counts, colour, label in (
        (found.truth_differs, GREY, "FP32 against the annotator"),
        (found.models_differ, BLUE, "INT8 against FP32"),
    ):
        share = 100 * counts / pixels
        axis.plot(centres, np.where(counts > 0, share, np.nan), "o-", color=colour, label=label)
    axis.set_yscale("log")
    axis.axvline(0, color=ORANGE, linewidth=0.8)
    axis.set_xlabel("distance to FP32's outline (px at 512; inside < 0)")
    axis.set_ylabel("pixels that differ (%)")
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, 1.16), ncols=2, fontsize=8)
    return figure
