"""Layers that compute in float exactly what the integer engine will compute.

The quantized weight is the folded one, adapter included, so training uses the deployed weight.
Products run on integer-valued floats and sum exactly (`training.quantization.exact_products`), so
the accumulators equal the integer engine's bit for bit. Gradients pass straight through rounding
and stop where a value was clipped; the activation scale learns as in LSQ (Esser et al., ICLR 2020),
in the logarithm.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from model_store.int8_layers import Int8Conv2d, Int8Linear, Int8Matrix
from model_store.integers import (
    WEIGHT_LIMIT,
    quantize_weight,
    weight_scale,
)
from training.adapters.adapted_linear import AdaptedLinear
from training.quantization.exact_products import exact_convolution, exact_linear

QuantizedSource = nn.Linear | nn.Conv2d | AdaptedLinear

EXECUTED_BITS = 8
"""Bits of an activation in every engine; fewer can be trained and measured, not executed."""

_SAMPLES_PER_BATCH = 16_384
_SCALE_CANDIDATES = 48


def folded_weight(source: QuantizedSource) -> Tensor:
    """Return a layer's weight, adapter included."""
    return source.folded_weight() if isinstance(source, AdaptedLinear) else source.weight


def folded_bias(source: QuantizedSource) -> Tensor | None:
    """Return the bias of a layer."""
    return source.folded_bias if isinstance(source, AdaptedLinear) else source.bias


def step_range(bits: int) -> tuple[int, int]:
    """Return the lowest and the highest step of an activation of so many bits."""
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


def round_straight_through(values: Tensor) -> Tensor:
    """Round to even; the gradient passes unchanged."""
    return values + (torch.round(values) - values).detach()


class FakeQuantized(nn.Module):
    """A linear or convolution layer on fake-quantized weight and input.

    Attributes:
        activation_bits: Bits of the input, for 2 to this power of steps.
    """

    def __init__(self, source: QuantizedSource, activation_bits: int = EXECUTED_BITS) -> None:
        """Wrap ``source``; until calibrated the activation scale is 1."""
        super().__init__()
        self.source = source
        self.activation_bits = activation_bits
        self.log_scale = nn.Parameter(torch.zeros(()))
        self.samples: list[Tensor] | None = None

    @property
    def activation_scale(self) -> Tensor:
        """Current scale of the input, float32 scalar."""
        return self.log_scale.exp()

    def forward(self, values: Tensor) -> Tensor:
        """Compute in float32 what the integer layer will compute, or would at fewer bits."""
        if self.samples is not None:
            self._sample(values)
            return self._float_forward(values)
        with torch.autocast(values.device.type, enabled=False):
            scale = self.activation_scale
            steps = (values.float() / scale).clamp(*step_range(self.activation_bits))
            integers, per_channel = self.integer_weight()
            accumulator = self._product(round_straight_through(steps), integers)
            return self._dequantize(accumulator, scale * per_channel)

    def integer_weight(self) -> tuple[Tensor, Tensor]:
        """Return the weight as integer-valued floats with a gradient, and its scales (N,)."""
        weight = folded_weight(self.source)
        per_channel = weight_scale(weight.detach().flatten(1))
        shape = (-1,) + (1,) * (weight.ndim - 1)
        integers = round_straight_through(weight / per_channel.view(shape))
        return integers.clamp(-WEIGHT_LIMIT, WEIGHT_LIMIT), per_channel

    def _product(self, values: Tensor, weight: Tensor) -> Tensor:
        if isinstance(self.source, nn.Conv2d):
            return exact_convolution(values, weight, self.source.stride, self.source.padding)
        return exact_linear(values, weight)

    def _dequantize(self, accumulator: Tensor, scale: Tensor) -> Tensor:
        bias = folded_bias(self.source)
        shape = (-1, 1, 1) if isinstance(self.source, nn.Conv2d) else (-1,)
        output = accumulator * scale.view(shape)
        return output if bias is None else output + bias.view(shape)

    def _float_forward(self, values: Tensor) -> Tensor:
        output: Tensor = self.source(values)
        return output

    def _sample(self, values: Tensor) -> None:
        assert self.samples is not None
        flat = values.detach().float().flatten()
        stride = max(1, flat.numel() // _SAMPLES_PER_BATCH)
        # The extremes are always among the samples, because they decide the cost of clipping.
        extremes = torch.stack([flat.min(), flat.max()])
        self.samples.append(torch.cat([flat[::stride], extremes]))

    def calibrate(self) -> None:
        """Set the scale to the one of least squared error on the sampled inputs."""
        if not self.samples:
            raise ValueError("no inputs were sampled; run batches inside `sampling` first")
        values = torch.cat(self.samples)
        low, high = step_range(self.activation_bits)
        largest = max(values.max().item() / high, values.min().item() / low, 1e-6)
        candidates = [
            largest * 0.5 ** (4 * i / _SCALE_CANDIDATES) for i in range(_SCALE_CANDIDATES)
        ]
        best = min(candidates, key=lambda scale: _squared_error(values, scale, low, high))
        with torch.no_grad():
            self.log_scale.fill_(math.log(best))
        self.samples = None

    def stored_weight(self) -> tuple[Tensor, Tensor]:
        """Return the stored form of the weight: int8 (N, K) and scales (N,)."""
        weight = folded_weight(self.source).detach().flatten(1)
        scale = weight_scale(weight)
        return quantize_weight(weight, scale), scale

    def to_integers(self) -> Int8Linear | Int8Conv2d:
        """Return the integer layer that computes the same."""
        integers, scale = self.stored_weight()
        bias = folded_bias(self.source)
        matrix = Int8Matrix(
            integers,
            scale,
            self.activation_scale.detach().clone(),
            None if bias is None else bias.detach().clone(),
        )
        if isinstance(self.source, nn.Conv2d):
            padding = self.source.padding
            return Int8Conv2d(
                matrix, self.source.kernel_size[0], self.source.stride[0],
                padding[0] if isinstance(padding, tuple) else 0,
            )  # fmt: skip
        return Int8Linear(matrix)


def _squared_error(values: Tensor, scale: float, low: int, high: int) -> float:
    steps = torch.round(values / scale).clamp(low, high)
    return float((steps * scale - values).square().mean())


@contextmanager
def sampling(layers: Iterable[FakeQuantized]) -> Iterator[None]:
    """Compute the layers in float within the block, and collect samples of their inputs."""
    chosen = list(layers)
    for layer in chosen:
        layer.samples = []
    yield
    for layer in chosen:
        layer.calibrate()
