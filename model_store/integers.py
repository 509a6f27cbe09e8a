"""The integer scheme: how floats become int8, and what an integer linear layer computes.

Weights are symmetric signed integers of at most ±63 with one scale per output channel. Activations
are unsigned 8-bit at zero point 128 with one static scale per tensor, so a result never depends on
the rest of the batch. Why ±63: CPUs without VNNI add pairs of u8 x s8 products in saturating int16.
2 * 255 * 63 = 32,130 stays below 32,767; with ±127 results would silently saturate
(``ONEDNN_MAX_CPU_ISA=AVX2`` shows it on any CPU).

The functions here are the definition: slow and obviously right. Every backend is tested against
them with tolerance 0 on the accumulators.
"""

from __future__ import annotations

import torch
from torch import Tensor

WEIGHT_LIMIT = 63
"""Largest magnitude of an integer weight."""

ZERO_POINT = 128
"""Unsigned 8-bit value that stands for activation 0."""

ACTIVATION_LOW, ACTIVATION_HIGH = -128, 127
"""Range of an activation in steps of its scale."""

SCHEME = "w7s_per_channel.a8_static_per_tensor"
"""Name of this scheme in manifests."""

_SMALLEST_SCALE = 1e-12
"""Smallest scale, against division by zero in an all-zero channel, whose integers are 0 anyway."""


def weight_scale(weight: Tensor) -> Tensor:
    """Return the scale of each output channel, float32 (N,), of a float weight (N, K)."""
    return weight.abs().amax(dim=1).clamp(min=_SMALLEST_SCALE) / WEIGHT_LIMIT


def quantize_weight(weight: Tensor, scale: Tensor) -> Tensor:
    """Return int8 (N, K) of a float weight (N, K) with scales (N,); half rounds to even."""
    steps = torch.round(weight / scale[:, None]).clamp(-WEIGHT_LIMIT, WEIGHT_LIMIT)
    return steps.to(torch.int8)


def quantize_activation(values: Tensor, scale: Tensor) -> Tensor:
    """Return uint8 at zero point 128 of float values, any shape; half rounds to even."""
    steps = torch.round(values / scale).clamp_(ACTIVATION_LOW, ACTIVATION_HIGH)
    return steps.add_(ZERO_POINT).to(torch.uint8)


def reference_accumulate(activation: Tensor, weight: Tensor) -> Tensor:
    """Multiply exactly, in int64 (K up to 2**47 terms of at most 2**14).

    Args:
        activation: uint8 at zero point 128, (M, K).
        weight: int8, (N, K).

    Returns:
        int64 (M, N).
    """
    return (activation.long() - ZERO_POINT) @ weight.long().T


def dequantize_accumulator(
    accumulator: Tensor, activation_scale: Tensor, scale: Tensor, bias: Tensor | None
) -> Tensor:
    """Turn integer accumulators (M, N) into float32 outputs (M, N)."""
    output = accumulator.float() * (activation_scale * scale)
    return output if bias is None else output.add_(bias)
