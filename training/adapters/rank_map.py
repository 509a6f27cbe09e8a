"""A picture of AdaLoRA's final ranks: blocks of the encoder by adapted slices."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from training.adapters.adapted_linear import TARGETS

RANK_MAP_FILE = "rank_map.png"

Ranks = Mapping[str, Mapping[str, int]]
"""Number of kept triplets, by the names of layer and slice."""


def rank_grid(ranks: Ranks) -> tuple[np.ndarray, list[str]]:
    """Arrange ranks by block and slice.

    Args:
        ranks: Ranks from `training.adapters.rank_allocator.RankAllocator.ranks`.

    Returns:
        The ranks, int (blocks, slices), and the names of the adapted slices.
    """
    present = {name for slices in ranks.values() for name in slices}
    columns = [name for name in TARGETS if name in present]
    rows: dict[int, dict[str, int]] = {}
    for layer, slices in ranks.items():
        rows.setdefault(_block_of(layer), {}).update(slices)
    grid = [[rows[block][name] for name in columns] for block in sorted(rows)]
    return np.array(grid, dtype=int), columns


def _block_of(layer: str) -> int:
    found = re.search(r"blocks\.(\d+)\.", layer)
    if found is None:
        raise ValueError(f"{layer!r} is not a layer of an encoder block")
    return int(found.group(1))


def draw_rank_map(ranks: Ranks, initial_rank: int | None) -> Figure:
    """Draw the ranks before and after training, on one colour scale.

    Args:
        ranks: Number of kept triplets, by layer and slice.
        initial_rank: Triplets of every slice at the start; None if it was not recorded, and then
            only the final map is drawn.
    """
    after, columns = rank_grid(ranks)
    grids = {"after": after}
    if initial_rank is not None:
        grids = {"before": np.full_like(after, initial_rank), **grids}
    highest = int(after.max()) if initial_rank is None else initial_rank
    blocks = len(after)
    size = (2.6 + 0.9 * len(columns), 1.6 + 0.34 * blocks)
    figure = Figure(figsize=(max(6.4, size[0] * 1.5), size[1]), layout="constrained")
    axes = figure.subplots(1, len(grids), sharey=True, squeeze=False)[0]
    for axis, (title, grid) in zip(axes, grids.items(), strict=True):
        picture = axis.imshow(grid, cmap="viridis", vmin=0, vmax=highest, aspect="auto")
        axis.set_title(f"{title}: {int(grid.sum())} triplets")
        axis.set_xticks(range(len(columns)), columns)
        axis.set_yticks(range(blocks))
        _write_numbers(axis, grid, highest)
    axes[0].set_ylabel("encoder block")
    figure.colorbar(picture, ax=list(axes), label="rank")
    return figure


def _write_numbers(axis: Any, grid: np.ndarray, highest: int) -> None:
    for (row, column), rank in np.ndenumerate(grid):
        colour = "black" if rank > 0.6 * highest else "white"
        axis.text(column, row, str(rank), ha="center", va="center", color=colour, fontsize=8)


def save_rank_map(folder: Path, ranks: Ranks, initial_rank: int) -> Path:
    """Write ``rank_map.png`` into a run's folder and return its path."""
    path = folder / RANK_MAP_FILE
    drawn = io.BytesIO()
    draw_rank_map(ranks, initial_rank).savefig(drawn, format="png", dpi=120)
    path.write_bytes(drawn.getvalue())
    return path
