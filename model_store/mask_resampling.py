"""From mask logits to the pixels of the X-ray in strips, for CPUs.

`logit_resampling.logits_to_image` multiplies with two matrices of which all but four numbers a row
are zero. Here only those four are multiplied, in strips that stay in the cache, and each strip is
compared with the threshold at once: no logit of the size of the X-ray is ever stored. NumPy does
this in the calling thread; the threads of PyTorch would meet those of the engine at every call.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model_store.geometry import InputGeometry

_TAPS = 4
"""Samples under the cubic kernel."""


@dataclass(frozen=True)
class Strip:
    """Neighbouring target samples that are made of the same source samples.

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
    """Return at which pixels of the image (H, W) resampled logits (M, M) exceed a threshold."""
    side, width, height = logits.shape[0], geometry.width, geometry.height
    wide = np.empty((side, width), np.float32)
    for strip in resampling_strips(side, geometry.resized_width / geometry.input_size, width):
        np.matmul(logits[:, strip.source], strip.weights.T, out=wide[:, strip.target])
    mask = np.empty((height, width), np.bool_)
    for strip in resampling_strips(side, geometry.resized_height / geometry.input_size, height):
        np.greater(strip.weights @ wide[strip.source], threshold, out=mask[strip.target])
    return mask


@functools.lru_cache(maxsize=64)
def resampling_strips(source: int, share: float, target: int) -> tuple[Strip, ...]:
    """Return `resampling_weights` without its zeros; arguments as there."""
    matrix = resampling_weights(source, share, target)
    taps = min(_TAPS, source)
    first = np.minimum((matrix != 0).argmax(axis=1), source - taps)
    starts = [*np.flatnonzero(np.diff(first, prepend=-1)), target]
    strips = []
    for start, stop in itertools.pairwise(starts):
        low = int(first[start])
        weights = np.ascontiguousarray(matrix[start:stop, low : low + taps])
        strips.append(Strip(slice(int(start), int(stop)), slice(low, low + taps), weights))
    return tuple(strips)


def resampling_weights(source: int, share: float, target: int) -> NDArray[np.float32]:
    """Weights that resample the first ``share`` of ``source`` samples to ``target`` samples.

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
