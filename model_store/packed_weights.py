"""Weights of few levels packed into bytes, the form on disk.

A weight is a digit to the base of the number of levels, and a byte holds as many digits as fit:
eight of two levels, five of three, four of four, two of up to sixteen.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from model_store.weight_levels import WeightLevels


def packed_length(weights: int, levels: WeightLevels) -> int:
    """Return the number of bytes for a number of weights."""
    return math.ceil(weights / levels.weights_per_byte)


def pack_weights(weight: Tensor, levels: WeightLevels) -> Tensor:
    """Pack integers, int8 of any shape, into uint8 (bytes,); `unpack_weights` undoes it.

    Raises:
        ValueError: A weight is none of the levels.
    """
    found = weight.flatten().to(torch.int64) + levels.largest
    digits = torch.div(found, levels.spacing, rounding_mode="floor")
    fits = (digits >= 0) & (digits < levels.count) & (digits * levels.spacing == found)
    if not bool(fits.all()):
        raise ValueError(f"a weight is none of the {levels.count} levels {levels.integers}")
    places = levels.weights_per_byte
    padded = torch.nn.functional.pad(digits, (0, -digits.numel() % places))
    packed = (padded.view(-1, places) * _place_values(levels)).sum(dim=1)
    return packed.to(torch.uint8)


def unpack_weights(packed: Tensor, shape: tuple[int, ...], levels: WeightLevels) -> Tensor:
    """Unpack uint8 (bytes,) into int8 of ``shape``.

    Raises:
        ValueError: The number of bytes does not fit the shape, or a byte has a value that
            `pack_weights` never writes.
    """
    count = math.prod(shape)
    if packed.dtype != torch.uint8 or packed.shape != (packed_length(count, levels),):
        raise ValueError(
            f"{packed.dtype} {tuple(packed.shape)} does not hold {count} weights of "
            f"{levels.count} levels, which are {packed_length(count, levels)} bytes"
        )
    if packed.numel() and int(packed.max()) >= levels.count**levels.weights_per_byte:
        raise ValueError(
            f"a byte is no {levels.weights_per_byte} digits to the base {levels.count}"
        )
    # A table, because dividing nine million digits one by one takes a second.
    table = torch.arange(256)[:, None] // _place_values(levels) % levels.count  # (256, places)
    integers = (table * levels.spacing - levels.largest).to(torch.int8)
    digits = integers[packed.to(torch.int64)].flatten()
    if bool((digits[count:] != -levels.largest).any()):
        raise ValueError("digits beyond the last weight are not 0")
    return digits[:count].reshape(shape).contiguous()


def _place_values(levels: WeightLevels) -> Tensor:
    """Return the value of each digit of a byte, the first weight lowest, int64 (places,)."""
    return levels.count ** torch.arange(levels.weights_per_byte)
