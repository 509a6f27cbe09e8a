"""GPTQ: round a layer's weights one input at a time, and compensate each error in later weights.

Rounding to nearest treats weights as if inputs were independent. They are not: weights of
correlated inputs can compensate the error of one weight. With the second moments H of the inputs
the error of the output is a quadratic form in H, and the best correction of the weights that are
still to be rounded follows from a Cholesky factor of H's inverse. Frantar et al., "GPTQ: Accurate
Post-Training Quantization for Generative Pre-trained Transformers", ICLR 2023.

There are two additions to the paper. The scale of a channel is refitted to the resulting integers
by H, and rounding repeats with it. A layer with a bias uses the moments about the mean, because its
bias absorbs the error at the mean input.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from model_store.weight_levels import WeightLevels
from training.quantization.scale_fitting import fitted_scale, least_squares_scale

DAMPING = 0.01
"""Addition to H's diagonal, as a share of its mean, against inputs that never vary."""

_ROUNDS = 4
_BLOCK = 128


@dataclass(frozen=True)
class RoundedWeight:
    """Integers and scales that approximate a layer's weights.

    Attributes:
        integers: Whole numbers among the levels, float32 (N, K).
        scale: Scale of each channel, float32 (N,).
        error: Remaining mean squared error of each channel's output, float64 (N,).
    """

    integers: Tensor
    scale: Tensor
    error: Tensor


def gptq_weight(weight: Tensor, moments: Tensor, levels: WeightLevels) -> RoundedWeight:
    """Round a layer's weights by the second moments of its inputs.

    Args:
        weight: Float (N, K).
        moments: Mean of the outer products of the inputs, or their covariance for a layer with a
            bias, float (K, K).
        levels: The integers that a weight can have.

    Returns:
        For each channel the best of a few rounds of rounding and refitting, never worse than
        rounding to nearest.
    """
    wanted, h = weight.double(), _damped(moments.double())
    order = torch.argsort(torch.diagonal(h), descending=True)
    factor = _inverse_factor(h[order][:, order]).float()
    scale = least_squares_scale(wanted, levels, torch.diagonal(h))
    best = levels.nearest(wanted / scale[:, None])
    best_scale = fitted_scale(wanted, best, h, scale)
    least = output_error(wanted, best, best_scale, h)
    for _ in range(_ROUNDS):
        integers = torch.empty_like(wanted)
        integers[:, order] = _rounded(weight[:, order], scale.float(), factor, levels).double()
        scale = fitted_scale(wanted, integers, h, scale)
        error = output_error(wanted, integers, scale, h)
        better = error < least
        best = torch.where(better[:, None], integers, best)
        best_scale = torch.where(better, scale, best_scale)
        least = torch.where(better, error, least)
    return RoundedWeight(best.float(), best_scale.float(), least)


def output_error(weight: Tensor, integers: Tensor, scale: Tensor, moments: Tensor) -> Tensor:
    """Return the mean squared error of each channel's output, (N,).

    Args:
        weight: Float (N, K).
        integers: Its integers, (N, K).
        scale: Scale of each channel, (N,).
        moments: Second moments of the inputs, (K, K).
    """
    off = integers * scale[:, None] - weight
    return ((off @ moments) * off).sum(dim=1)


def _damped(moments: Tensor) -> Tensor:
    mean = torch.diagonal(moments).mean().clamp(min=1e-12)
    return moments + DAMPING * mean * torch.eye(len(moments), dtype=moments.dtype).to(moments)


def _inverse_factor(moments: Tensor) -> Tensor:
    """Return the upper triangular U with U'U the inverse of ``moments``, (K, K)."""
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(moments))
    factor: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor


def _rounded(weight: Tensor, scale: Tensor, factor: Tensor, levels: WeightLevels) -> Tensor:
    """Round inputs in order, in blocks, so that most corrections are one matrix product."""
    rest = weight.float().clone()  # (N, K), corrected from input to input
    integers = torch.empty_like(rest)
    for start in range(0, weight.shape[1], _BLOCK):
        end = min(start + _BLOCK, weight.shape[1])
        errors = torch.empty_like(rest[:, start:end])
        for column in range(start, end):
            value = rest[:, column]
            integers[:, column] = levels.nearest(value / scale)
            error = (value - integers[:, column] * scale) / factor[column, column]
            rest[:, column:end] -= error[:, None] * factor[column, column:end]
            errors[:, column - start] = error
        rest[:, end:] -= errors @ factor[start:end, end:]
    return integers
