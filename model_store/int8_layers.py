"""Linear and convolution layers whose weights are int8 and whose products are integers.

A convolution is the same matrix product on its unfolded patches. On the CPU the product runs in
oneDNN with int32 accumulators (``qlinear_pointwise``); elsewhere, or on request, in the slow
reference of `model_store.integers`.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_store.integers import (
    ZERO_POINT,
    dequantize_accumulator,
    quantize_activation,
    reference_accumulate,
)

Backend = Literal["reference", "cpu", "cuda"]


class Int8Matrix(nn.Module):
    """An int8 weight with its scales, and the integer product with it."""

    weight: Tensor
    weight_scale: Tensor
    activation_scale: Tensor
    bias: Tensor | None

    def __init__(
        self, weight: Tensor, weight_scale: Tensor, activation_scale: Tensor, bias: Tensor | None
    ) -> None:
        """Store the weight with its scales and bias.

        Args:
            weight: int8 (N, K).
            weight_scale: float32 (N,).
            activation_scale: float32 scalar.
            bias: float32 (N,) or None.
        """
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("weight_scale", weight_scale)
        self.register_buffer("activation_scale", activation_scale)
        self.register_buffer("bias", bias)
        self.backend: Backend = "reference"
        self._packed: tuple[Tensor, Tensor, Tensor] | None = None

    def use_backend(self, backend: Backend) -> None:
        """Choose the backend; ``cpu`` packs the weight for oneDNN when it is first used."""
        self.backend = backend
        self._packed = None

    def product(self, quantized: Tensor) -> Tensor:
        """Multiply uint8 activations (M, K) and dequantize to float32 (M, N)."""
        accumulator = self.accumulate(quantized)
        return dequantize_accumulator(
            accumulator, self.activation_scale, self.weight_scale, self.bias
        )

    def accumulate(self, quantized: Tensor) -> Tensor:
        """Multiply uint8 activations (M, K) to accumulators (M, N).

        On the CPU they are float32, exact below 2**24. oneDNN could apply scale and bias in the
        same pass, but it fuses them on AVX-512 and not on AVX2. Later layers would amplify a
        difference in the last bit. So both are applied outside oneDNN, with the same result on
        every CPU.
        """
        if self.backend == "cpu":
            packed, scales, zero_points = self._pack()
            accumulator: Tensor = torch.ops.onednn.qlinear_pointwise(
                quantized, 1.0, ZERO_POINT, packed, scales, zero_points,
                None, 1.0, 0, torch.float32, "none", [], "",
            )  # fmt: skip
            return accumulator
        if self.backend == "cuda":
            return _cuda_accumulate(quantized, self.weight)
        return reference_accumulate(quantized, self.weight)

    def _pack(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return weight, scales and zero points in oneDNN's form; two threads may both do it."""
        packed = self._packed
        if packed is None:
            outputs = self.weight.shape[0]
            # The row count is only a hint; the packed weight works for any number of rows.
            weight = torch.ops.onednn.qlinear_prepack(self.weight, None)
            packed = weight, torch.ones(outputs), torch.zeros(outputs, dtype=torch.int64)
            self._packed = packed
        return packed


def _cuda_accumulate(quantized: Tensor, weight: Tensor) -> Tensor:
    """Multiply on a GPU to int32 (M, N); cuBLAS needs at least 17 rows and multiples of 8."""
    rows, terms = quantized.shape
    signed = (quantized.to(torch.int16) - ZERO_POINT).to(torch.int8)
    pad_rows, pad_terms = max(0, 32 - rows), -terms % 8
    pad_columns = -weight.shape[0] % 8
    signed = functional.pad(signed, (0, pad_terms, 0, pad_rows))
    padded = functional.pad(weight, (0, pad_terms, 0, pad_columns))
    product = torch._int_mm(signed.contiguous(), padded.T)  # zeros add nothing
    return product[:rows, : weight.shape[0]]


class Int8Linear(nn.Module):
    """``nn.Linear`` in integers."""

    def __init__(self, matrix: Int8Matrix) -> None:
        """Apply ``matrix`` to the last axis."""
        super().__init__()
        self.matrix = matrix

    def forward(self, values: Tensor) -> Tensor:
        """Map float32 (..., K) to float32 (..., N)."""
        flat = values.reshape(-1, values.shape[-1])
        output = self.matrix.product(quantize_activation(flat, self.matrix.activation_scale))
        return output.view(*values.shape[:-1], -1)


class Int8Conv2d(nn.Module):
    """``nn.Conv2d`` (square kernel, one group) in integers, as a product on unfolded patches."""

    def __init__(self, matrix: Int8Matrix, kernel_size: int, stride: int, padding: int) -> None:
        """Apply ``matrix`` (N, C * kernel * kernel) at every position of the kernel."""
        super().__init__()
        self.matrix = matrix
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding

    def forward(self, values: Tensor) -> Tensor:
        """Map float32 (B, C, H, W) to float32 (B, N, H', W')."""
        quantized = quantize_activation(values, self.matrix.activation_scale)
        if self.padding:  # the zero point stands for 0
            quantized = functional.pad(quantized, (self.padding,) * 4, value=ZERO_POINT)
        size, stride = self.kernel_size, self.stride
        patches = quantized.unfold(2, size, stride).unfold(3, size, stride)  # (B, C, H', W', k, k)
        batch, channels, height, width = patches.shape[:4]
        rows = patches.permute(0, 2, 3, 1, 4, 5).reshape(-1, channels * size * size)
        output = self.matrix.product(rows)
        return output.view(batch, height, width, -1).permute(0, 3, 1, 2)
