"""Learning curves of a run from its log; a resumed step counts once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from training.report.figures import BLUE, GREEN, GREY, ORANGE, PINK, new_axes

LOG_FILE = "log.jsonl"


def read_events(folder: Path, event: str) -> list[dict[str, Any]]:
    """Return the events of one kind, by step; after a resumption the later event counts.

    A last line that was cut off by a kill is ignored.
    """
    path = folder / LOG_FILE
    if not path.is_file():
        return []
    by_step: dict[int, dict[str, Any]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            found = json.loads(line)
        except json.JSONDecodeError:
            continue
        if found.get("event") == event:
            by_step[int(found["step"])] = found
    return [by_step[step] for step in sorted(by_step)]


def draw_learning_curves(folder: Path) -> Figure | None:
    """Draw loss, validation and rank budget of a run; None without a log."""
    steps, checks = read_events(folder, "step"), read_events(folder, "validation")
    if not steps and not checks:
        return None
    ranked = any("rank_total" in entry for entry in steps)
    figure, axes = new_axes(3 if ranked else 2, size=(9.0, 3.2))
    _draw_loss(axes[0], steps)
    _draw_validation(axes[1], checks)
    if ranked:
        found = [e for e in steps if "rank_total" in e]
        axes[2].plot([e["step"] for e in found], [e["rank_total"] for e in found], color=GREEN)
        axes[2].set_title("Rank budget")
        axes[2].set_ylabel("triplets kept")
    for axis in axes:
        axis.set_xlabel("step")
    return figure


def _draw_loss(axis: Any, steps: list[dict[str, Any]]) -> None:
    x, y = [e["step"] for e in steps], [e["loss"] for e in steps]
    marker = "o" if len(x) < 3 else None
    axis.plot(x, y, color=GREY, alpha=0.5, linewidth=0.8, marker=marker)
    window = max(1, len(y) // 25)
    if window > 1:
        smooth = np.convolve(y, np.ones(window) / window, mode="valid")
        axis.plot(x[window - 1 :], smooth, color=BLUE, label=f"mean of {window} entries")
        axis.legend()
    axis.set_title("Training loss")
    axis.set_ylabel("loss")


def _draw_validation(axis: Any, checks: list[dict[str, Any]]) -> None:
    x = [e["step"] for e in checks]
    marker = "o" if len(x) < 20 else None
    for colour, source in zip(
        (BLUE, ORANGE, GREEN, PINK, GREY) * 10, checks[-1]["own_box"] if checks else (),
        strict=False,
    ):  # fmt: skip
        axis.plot(
            x, [e["own_box"].get(source, np.nan) for e in checks], color=colour, label=source,
            marker=marker,
        )  # fmt: skip
    axis.set_title("Validation, own box")
    axis.set_ylabel("mean Dice")
    if checks:
        axis.legend(fontsize=8)
