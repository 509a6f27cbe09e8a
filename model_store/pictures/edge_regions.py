"""Tell padding around the picture from tissue that has the same grey value.

Padding marks what was not exposed: it is at the edge of the picture, and grey values jump where it
ends. Saturated tissue can have the same value. It is inside, or reaches the edge somewhere, and
values rise to it smoothly.

Runs along rows are joined where they touch, so the time depends only on the number of runs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

JUMP_SHARE = 0.5
"""Least share of a padding region's border at which values jump."""


def surrounding_regions(
    marked: NDArray[np.bool_], values: NDArray[np.integer], least_jump: float
) -> NDArray[np.bool_]:
    """Return the marked pixels that are padding.

    Args:
        marked: pixels that have the padding value, (H, W).
        values: grey values, (H, W).
        least_jump: difference of neighbouring values that counts as a jump.

    Returns:
        (H, W), a subset of `marked`: the regions that reach the edge and end in jumps. Pixels are
        neighbours when they share a side.
    """
    height, width = marked.shape
    stride = width + 1  # an unmarked pixel after each row separates the runs of two rows
    flat = np.zeros(height * stride + 2, bool)
    flat[1:-1].reshape(height, stride)[:, :width] = marked
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    starts, ends = changes[::2], changes[1::2]
    components = _components(len(starts), *_touching(starts, ends, stride))
    bounds = np.concatenate(([0], changes, [height * stride]))
    of_spans = np.full(len(bounds) - 1, -1, np.int32)
    of_spans[1::2] = components
    labels = np.repeat(of_spans, np.diff(bounds)).reshape(height, stride)[:, :width]
    is_padding = _reach_edge(labels, len(starts)) & _end_in_jumps(
        labels, values, len(starts), least_jump
    )
    of_runs = np.zeros(len(bounds) - 1, bool)
    of_runs[1::2] = is_padding[components]
    return np.repeat(of_runs, np.diff(bounds)).reshape(height, stride)[:, :width]


def _reach_edge(labels: NDArray[np.int32], count: int) -> NDArray[np.bool_]:
    reached = np.zeros(count, bool)
    for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        reached[edge[edge >= 0]] = True
    return reached


def _end_in_jumps(
    labels: NDArray[np.int32], values: NDArray[np.integer], count: int, least_jump: float
) -> NDArray[np.bool_]:
    """Return whether values jump along most of each component's border; true without a border."""
    borders = np.zeros(count, np.int64)
    jumps = np.zeros(count, np.int64)
    for one, other, first, second in (
        (labels[:, :-1], labels[:, 1:], values[:, :-1], values[:, 1:]),
        (labels[:-1], labels[1:], values[:-1], values[1:]),
    ):
        rows, columns = np.nonzero((one < 0) != (other < 0))
        component = np.maximum(one[rows, columns], other[rows, columns])
        step = first[rows, columns].astype(np.int64) - second[rows, columns]
        borders += np.bincount(component, minlength=count)
        jumps += np.bincount(component[np.abs(step) >= least_jump], minlength=count)
    return np.asarray(jumps >= JUMP_SHARE * borders)


def _touching(
    starts: NDArray[Any], ends: NDArray[Any], stride: int
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return pairs of runs, one below the other, that share a column."""
    # Runs of the row above that overlap this run.
    first = np.searchsorted(ends, starts - stride, side="right")
    last = np.searchsorted(starts, ends - stride, side="left")
    counts = np.maximum(last - first, 0)
    below = np.repeat(np.arange(len(starts)), counts)
    offsets = np.arange(len(below)) - np.repeat(np.cumsum(counts) - counts, counts)
    return first[below] + offsets, below


def _components(count: int, above: NDArray[Any], below: NDArray[Any]) -> NDArray[Any]:
    """Return each run's component, numbered by its first run."""
    labels = np.arange(count)
    while True:
        least = np.minimum(labels[above], labels[below])
        joined = labels.copy()
        np.minimum.at(joined, labels[above], least)
        np.minimum.at(joined, labels[below], least)
        joined = joined[joined]
        if np.array_equal(joined, labels):
            return labels
        labels = joined
