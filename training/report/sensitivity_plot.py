"""Plot of the loss of each quantized layer, and of the layers that stayed float."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from model_store.manifest import Manifest
from training.report.figures import BLUE, GREY, ORANGE, new_axes
from training.report.quantization_plots import short_name

_SHOWN_LAYERS = 40


def sensitivity_record(manifest: Manifest) -> dict[str, Any] | None:
    """Return the last stage 2's record of its sensitivity table; None without one."""
    for stage in reversed(manifest.training.get("stages", ())):
        if stage.get("sensitivity"):
            record: dict[str, Any] = stage["sensitivity"]
            return record
    return None


def draw_sensitivity(record: Mapping[str, Any]) -> Figure:
    """Draw lost Dice and SSIM per layer with their margins, the nearest to one on top."""
    layers = sorted(record["layers"].items(), key=lambda item: -_nearness(item[1], record))
    layers = layers[:_SHOWN_LAYERS]
    figure, axes = new_axes(2, size=(9.0, 1.4 + 0.19 * len(layers)))
    rows = np.arange(len(layers))
    colours = [ORANGE if row["precision"] == "float" else BLUE for _, row in layers]
    for axis, measure, label in (
        (axes[0], "dice", "Dice lost"),
        (axes[1], "ssim", "SSIM lost"),
    ):
        axis.barh(rows, [row[f"{measure}_lost"] for _, row in layers], color=colours)
        axis.axvline(record[f"{measure}_margin"], color=GREY, linestyle="--", linewidth=1)
        axis.set_xlabel(f"{label} (dashed: margin)")
        axis.locator_params(axis="x", nbins=4)
        axis.set_ylim(len(layers) - 0.5, -0.5)
    axes[0].set_yticks(rows, [short_name(name) for name, _ in layers], fontsize=7)
    axes[1].set_yticks(rows, [])
    kinds = [Patch(color=BLUE, label="INT8"), Patch(color=ORANGE, label="stays float")]
    axes[1].legend(handles=kinds, loc="lower right")
    return figure


def _nearness(row: Mapping[str, Any], record: Mapping[str, Any]) -> float:
    """Return the larger of the shares of both margins that a layer uses."""
    smallest = 1e-9  # a margin may be 0
    return float(
        max(row[f"{m}_lost"] / max(record[f"{m}_margin"], smallest) for m in ("dice", "ssim"))
    )
