"""Resample mask logits to the pixels of the X-ray in strips, for CPUs.

`logit_resampling.logits_to_image` multiplies with two matrices that have only four nonzero numbers
in a row. Here few zeros are multiplied, in blocks that stay in the cache. Each block is compared
with the threshold at once, so logits at the size of the X-ray are never stored. NumPy does this in
the calling thread; PyTorch's threads would compete with the engine's at every call.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model_store.geometry import InputGeometry

STRIP_SAMPLES = 32
"""Target samples of a strip. One strip for each source sample multiplies fewer zeros but is slower:
it needs more calls, and each call may lose Python's lock to another thread."""
BLOCK_COLUMNS = 1024
"""Columns of a block, few enough that its logits fit the cache and OpenBLAS stays in the calling
thread."""


@dataclass(frozen=True)
class Strip:
    """Neighbouring target samples and the source samples that they are made of.

    Attributes:
        target: Which target samples.
        source: Which source samples.
        weights: float32 (target samples, source samples).
    """

    target: slice
    source: slice
    weights: NDArray[np.float32]


def logits_above(
    logits: NDArray[np.float32], geometry: InputGeometry, threshold: float
) -> NDArray[np.bool_]:
    """Return the pixels of the image (H, W) where resampled logits (M, M) exceed a threshold.

    Raises:
        ValueError: Some logits are NaN, which would silently count as no lung.
    """
    if not np.isfinite(logits).all():
        raise ValueError("the model gave mask logits that are not numbers")
    side, width, height = logits.shape[0], geometry.width, geometry.height
    wide = np.empty((side, width), np.float32)
    for strip in resampling_strips(side, geometry.resized_width / geometry.input_size, width):
        np.matmul(logits[:, strip.source], strip.weights.T, out=wide[:, strip.target])
    mask = np.empty((height, width), np.bool_)
    strips = resampling_strips(side, geometry.resized_height / geometry.input_size, height)
    for start in range(0, width, BLOCK_COLUMNS):
        columns = slice(start, start + BLOCK_COLUMNS)
        for strip in strips:
            values = strip.weights @ wide[strip.source, columns]
            np.greater(values, threshold, out=mask[strip.target, columns])
    return mask


def logits_at_pixels(logits: NDArray[np.float32], geometry: InputGeometry) -> NDArray[np.float32]:
    """Return resampled logits (M, M) at the pixels of the image, float32 (H, W).

    Raises:
        ValueError: Some logits are NaN.
    """
    if not np.isfinite(logits).all():
        raise ValueError("the model gave mask logits that are not numbers")
    side, width, height = logits.shape[0], geometry.width, geometry.height
    wide = np.empty((side, width), np.float32)
    for strip in resampling_strips(side, geometry.resized_width / geometry.input_size, width):
        np.matmul(logits[:, strip.source], strip.weights.T, out=wide[:, strip.target])
    pixels = np.empty((height, width), np.float32)
    for strip in resampling_strips(side, geometry.resized_height / geometry.input_size, height):
        np.matmul(strip.weights, wide[strip.source], out=pixels[strip.target])
    return pixels


@functools.lru_cache(maxsize=64)
def resampling_strips(source: int, share: float, target: int) -> tuple[Strip, ...]:
    """Return `resampling_weights` without most of its zeros; arguments as there."""
    matrix = resampling_weights(source, share, target)
    strips = []
    for start in range(0, target, STRIP_SAMPLES):
        rows = slice(start, min(start + STRIP_SAMPLES, target))
        used = np.flatnonzero(matrix[rows].any(axis=0))
        columns = slice(int(used[0]), int(used[-1]) + 1)
        strips.append(Strip(rows, columns, np.ascontiguousarray(matrix[rows, columns])))
    return tuple(strips)


def resampling_weights(source: int, share: float, target: int) -> NDArray[np.float32]:
    """Return weights that resample the first ``share`` of ``source`` samples to ``target`` samples.

    Keys' cubic convolution with a = -1/2 (Keys, IEEE TASSP 1981;29(6):1153): a 16-fold
    enlargement of mask logits then has smooth contours, where bilinear shows facets. Samples sit
    at pixel centres; beyond the edge the last sample repeats.

    Args:
        source: Number of samples along the axis.
        share: Part of the source axis that the target covers, 0 < share <= 1.
        target: Number of target samples.

    Returns:
        float32 (target, source); every row sums to 1.
    """
    centres = (np.arange(target) + 0.5) * (share * source / target) - 0.5
    first = np.floor(centres).astype(np.int64)
    weights = np.zeros((target, source))
    rows = np.arange(target)
    for offset in range(-1, 3):
        distance = np.abs(centres - (first + offset))
        column = np.clip(first + offset, 0, source - 1)
        np.add.at(weights, (rows, column), _keys_cubic(distance))
    return weights.astype(np.float32)


def _keys_cubic(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1.0
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4.0 * distance + 2.0
    kernel: NDArray[np.float64] = np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))
    return kernel
