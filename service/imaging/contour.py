"""The contour of a mask: its pixels and their opacity.

The mean of the mask over n x n pixels (n = 2 * width + 1) tells how near the edge a mask pixel is.
On a straight edge it is (width + 1) / n at the outermost pixel, and 1 at the pixel `width` further
in. Only about one pixel in a hundred is near an edge, so the mean is computed only there. Finding
these pixels takes a few passes over bytes, less than blurring the whole picture.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def contour_of(
    mask: NDArray[np.bool_], width: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.uint8]]:
    """Find the contour.

    Args:
        mask: (H, W) bool.
        width: fully opaque pixels from the edge inwards; one more fades.

    Returns:
        Rows, columns and opacities (1 to 255) of the contour's pixels, each (N,).
    """
    n = 2 * width + 1
    padded = np.pad(mask.view(np.uint8), width)  # (H + 2 width, W + 2 width)
    in_row = _windows(padded, n, np.add)  # (H + 2 width, W): covered pixels of n in a row
    is_deep = _windows((in_row == n).T, n, np.logical_and).T  # (H, W): all n x n are covered
    rows, columns = np.divmod(np.flatnonzero(mask & ~is_deep), mask.shape[1] or 1)
    # Rounded to bytes along rows, then along columns, like an 8-bit blur.
    row_averages = np.rint(np.arange(n + 1) * (255 / n)).astype(np.int64)
    total = np.zeros(rows.size, dtype=np.int64)
    for step in range(n):
        total += row_averages[in_row[rows + step, columns]]
    nearness = (2 * total + n) // (2 * n)  # n is odd, so nothing is halfway between two bytes
    opacity = _opacities(n)[nearness]
    seen = opacity > 0
    return rows[seen], columns[seen], opacity[seen]


def _windows(values: NDArray[Any], n: int, join: np.ufunc) -> NDArray[Any]:
    """Combine each n neighbours along the last axis, (..., L) to (..., L - n + 1), by doubling."""
    length = values.shape[-1] - n + 1
    joined: NDArray[Any] | None = None
    run, run_length, start, left = values, 1, 0, n
    while left:
        if left & 1:
            part = run[..., start : start + length]
            joined = part if joined is None else join(joined, part)
            start += run_length
        left >>= 1
        if left:
            run = join(run[..., :-run_length], run[..., run_length:])
            run_length *= 2
    assert joined is not None
    return joined


def _opacities(n: int) -> NDArray[np.uint8]:
    """Return the opacity for each average, 0..255."""
    step = 255 / n - 1  # minus one for the rounding of the mean to a byte
    wanted = np.rint(255 * (255 - np.arange(256)) / step)
    return np.clip(wanted, 0, 255).astype(np.uint8)
