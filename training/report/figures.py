"""Style of figures, and their embedding in the page as ``data:`` URLs."""

from __future__ import annotations

import base64
import io
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from PIL import Image

BLUE, ORANGE, GREEN, PINK, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#6b7280"
"""Colours that people with any colour vision can tell apart (Okabe and Ito, 2008)."""

MODEL_COLOURS = {"int8": BLUE, "fp32": ORANGE, "bf16": GREEN}

_STYLE: Any = {
    "font.family": "sans-serif", "font.size": 10, "axes.titlesize": 11, "axes.titleweight": "bold",
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#9ca3af",
    "axes.grid": True, "axes.axisbelow": True, "grid.color": "#e5e7eb", "grid.linewidth": 0.8,
    "legend.frameon": False, "svg.hashsalt": "report",
}  # fmt: skip


def new_axes(columns: int = 1, size: tuple[float, float] = (9.0, 3.6)) -> tuple[Figure, list[Any]]:
    """Return a figure and its axes, side by side, in the report's style."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(1, columns, squeeze=False)[0]
        return figure, list(axes)


def svg_address(figure: Figure) -> str:
    """Return a figure as SVG in a ``data:`` address: sharp at any size."""
    drawn = io.BytesIO()
    with matplotlib.rc_context(_STYLE):
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    return _address("image/svg+xml", drawn.getvalue())


def png_address(figure: Figure) -> str:
    """Return a figure as PNG in a ``data:`` address: for pictures and clouds of points."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=130)
    return _address("image/png", drawn.getvalue())


def jpeg_address(image: Image.Image) -> str:
    """Return a picture as JPEG in a ``data:`` address."""
    drawn = io.BytesIO()
    image.save(drawn, format="jpeg", quality=88)
    return _address("image/jpeg", drawn.getvalue())


def _address(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
