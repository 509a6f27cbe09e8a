"""Fit the scale of each channel of weights by least squares, instead of by its largest weight.

With few levels, a scale that fits the largest weight rounds most others to zero: with three levels,
every weight below half of the largest. The scale of least squared error clips a few weights
instead. The error is that of the layer's output, by the second moments of its inputs, or at least
by their diagonal.
"""

from __future__ import annotations

import torch
from torch import Tensor

from model_store.integers import weight_scale
from model_store.weight_levels import EIGHT_BIT_LEVELS, WeightLevels

_CANDIDATES = 64
_SMALLEST_SHARE = 1 / 16
_REFITS = 4


def largest_scale(weight: Tensor, levels: WeightLevels) -> Tensor:
    """Return the scale that just fits the largest weight of each channel, (N,)."""
    if levels.count == EIGHT_BIT_LEVELS:
        return weight_scale(weight)
    return weight.abs().amax(dim=1).clamp(min=1e-12) / levels.largest


def least_squares_scale(
    weight: Tensor, levels: WeightLevels, importance: Tensor | None = None
) -> Tensor:
    """Return the scale of each channel with the least error after rounding to nearest.

    Args:
        weight: Float (N, K).
        levels: The integers that a weight can have.
        importance: Weight of each input, float (K,), such as the diagonal of the second moments;
            None for equal weights.

    Returns:
        Float (N,): the best of a range of candidates, then refitted to the integers it gives.
    """
    count = torch.ones_like(weight[0]) if importance is None else importance
    largest = largest_scale(weight, levels)
    best = largest.clone()
    least = torch.full_like(largest, torch.inf)
    # Candidates below the largest weight's scale, evenly spaced in the logarithm; that scale is the
    # first.
    for place in range(_CANDIDATES):
        scale = largest * _SMALLEST_SHARE ** (place / (_CANDIDATES - 1))
        error = _diagonal_error(weight, scale, levels, count)
        better = error < least
        best, least = torch.where(better, scale, best), torch.where(better, error, least)
    for _ in range(_REFITS):
        integers = levels.nearest(weight / best[:, None])
        scale = fitted_scale(weight, integers, torch.diag(count), best)
        error = _diagonal_error(weight, scale, levels, count)
        better = error < least
        best, least = torch.where(better, scale, best), torch.where(better, error, least)
    return best


def fitted_scale(weight: Tensor, integers: Tensor, moments: Tensor, fallback: Tensor) -> Tensor:
    """Return the scale at which given integers are nearest to the weights, (N,).

    Args:
        weight: Float (N, K).
        integers: Its integers, float (N, K).
        moments: Second moments of the inputs, float (K, K): the error is that of the output.
        fallback: Scales for channels whose integers are all 0 or would need a negative scale, (N,).
    """
    moved = integers @ moments  # (N, K)
    own = (moved * integers).sum(dim=1)
    scale = (moved * weight).sum(dim=1) / own.clamp(min=1e-30)
    return torch.where((own > 0) & (scale > 0), scale, fallback)


def _diagonal_error(
    weight: Tensor, scale: Tensor, levels: WeightLevels, importance: Tensor
) -> Tensor:
    nearest = levels.nearest(weight / scale[:, None]) * scale[:, None]
    return (nearest - weight).square() @ importance
