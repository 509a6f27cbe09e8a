"""Products of integer-valued floats that equal the integer engine's, on any backend.

float32 sums integers exactly below 2**24, that is up to 2,080 terms of at most 128 * 63. ViT-B has
layers of 3,072 terms (``lin2``) and 2,304 (the neck), ViT-H of 5,120. Their sums are divided into
exact parts, added in float64 and rounded to float32 once, like the engine's int32.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from model_store.integers import ACTIVATION_LOW, WEIGHT_LIMIT

EXACT_TERMS = 2**24 // (-ACTIVATION_LOW * WEIGHT_LIMIT)
"""Number of products that float32 always sums exactly: 2,080."""


def exact_linear(values: Tensor, weight: Tensor) -> Tensor:
    """Multiply integer-valued float32 (..., K) with (N, K) to (..., N).

    Returns:
        float32: the integer sum, rounded once if it does not fit into 24 bits.
    """
    terms = weight.shape[1]
    if terms <= EXACT_TERMS:
        return functional.linear(values, weight)
    size = math.ceil(terms / math.ceil(terms / EXACT_TERMS))
    parts = [
        functional.linear(v, w).double()
        for v, w in zip(
            torch.split(values, size, dim=-1), torch.split(weight, size, dim=1), strict=True
        )
    ]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total.float()


def exact_convolution(
    values: Tensor,
    weight: Tensor,
    stride: tuple[int, ...],
    padding: tuple[int, ...] | str,
) -> Tensor:
    """Convolve integer-valued float32 (B, C, H, W) with (N, C, k, k) to (B, N, H', W').

    It is a product on unfolded patches, like in the engine. Libraries may use Winograd's algorithm
    for a convolution, which multiplies by fractions and is not exact.
    """
    if isinstance(padding, str):
        raise ValueError(f"padding {padding!r} is not a number of pixels")
    size = weight.shape[2]
    patches = functional.unfold(values, size, padding=padding, stride=stride)  # (B, C*k*k, L)
    product = exact_linear(patches.transpose(1, 2), weight.flatten(1))  # (B, L, N)
    height = (values.shape[2] + 2 * padding[0] - size) // stride[0] + 1
    return product.transpose(1, 2).reshape(*product.shape[::2], height, -1)
