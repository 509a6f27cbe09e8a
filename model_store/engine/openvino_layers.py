"""The layers of a stored model as OpenVINO operations, made from its own tensors.

An integer layer becomes what OpenVINO's CPU plugin turns into one integer product: the input is
clipped and rounded to 256 steps (``FakeQuantize``), the weight is int8, and both scales are one
number per output channel, as in `model_store.integers.dequantize_accumulator`. The plugin moves
that number behind the product, so that int8 steps are multiplied with int8 weights and summed in
int32. `model_store.engine.openvino_checks` verifies that it does so.

One thing differs from the definition: OpenVINO multiplies by the reciprocal of the activation scale
where the definition divides. Where the quotient is within a float's last bits of half a step, the
result may be the neighbouring step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from openvino import op, opset13
from torch import Tensor, nn

from model_store.int8_layers import Int8Conv2d, Int8Linear, Int8Matrix
from model_store.integers import ACTIVATION_HIGH, ACTIVATION_LOW

Node = Any
"""An operation or one of its outputs; OpenVINO's Python types do not say which."""

LinearProduct = Callable[[Node, nn.Module, slice], Node]
"""`linear` or `pointwise_linear`: input, layer, output channels to compute."""

ALL = slice(None)
LEVELS = ACTIVATION_HIGH - ACTIVATION_LOW + 1


def constant(values: Any) -> Node:
    """Return a constant that shares the memory of a tensor or an array; scalars are float32."""
    if isinstance(values, Tensor):
        values = values.detach().contiguous().numpy()
    elif isinstance(values, float):
        values = np.float32(values)
    array = np.asarray(values)
    return op.Constant(array, shared_memory=array.ndim > 0)


def shape(sizes: Sequence[int]) -> Node:
    """Return sizes, axes or positions as a constant."""
    return op.Constant(np.asarray(sizes, np.int64))


def reshape(node: Node, sizes: Sequence[int]) -> Node:
    """Reshape; a size of -1 stands for the remaining elements."""
    return opset13.reshape(node, shape(sizes), special_zero=False)


def transpose(node: Node, order: Sequence[int]) -> Node:
    """Permute the axes."""
    return opset13.transpose(node, shape(order))


def quantize(node: Node, layer: nn.Module) -> Node:
    """Clip and round the input of an integer layer to its steps; leave that of a float layer.

    It is separate from `linear`, so that several products can share it, and tokens can be moved
    before a product.
    """
    if not isinstance(layer, Int8Linear | Int8Conv2d):
        return node
    step = layer.matrix.activation_scale.item()
    ends = ACTIVATION_LOW, ACTIVATION_HIGH
    low, high = (constant(np.float32(end) * np.float32(step)) for end in ends)
    lowest, highest = (constant(float(end)) for end in ends)
    return opset13.fake_quantize(node, low, high, lowest, highest, LEVELS)


def linear(node: Node, layer: nn.Module, rows: slice = ALL) -> Node:
    """Apply a linear layer, in integers or in float, to the last axis.

    Args:
        node: (..., K), from `quantize`.
        layer: ``Int8Linear`` or ``nn.Linear``.
        rows: Output channels to compute.
    """
    bias: Tensor | None
    if isinstance(layer, Int8Linear):
        weight = _scaled_steps(layer.matrix, rows, [-1, layer.matrix.weight.shape[1]])
        bias = layer.matrix.bias
    elif isinstance(layer, nn.Linear):
        weight, bias = constant(layer.weight[rows]), layer.bias
    else:
        raise TypeError(f"{type(layer).__name__} is not a linear layer")
    product = opset13.matmul(node, weight, transpose_a=False, transpose_b=True)
    return product if bias is None else opset13.add(product, constant(bias[rows]))


def pointwise_linear(node: Node, layer: nn.Module, rows: slice = ALL) -> Node:
    """Apply a linear layer as a 1 x 1 convolution, with the result of `linear`.

    Transposing rows to planes and back costs nothing: OpenVINO keeps the channels of an int8
    convolution innermost in memory, like those of rows. `linear` applies float layers, and layers
    that fail `is_exact_convolved`.
    """
    if not isinstance(layer, Int8Linear) or not is_exact_convolved(layer.matrix):
        return linear(node, layer, rows)
    *around, terms = node.get_output_partial_shape(0).to_shape()
    planes = transpose(reshape(node, [1, -1, 1, terms]), [0, 3, 1, 2])  # (1, K, N, 1)
    matrix = layer.matrix
    bias = None if matrix.bias is None else matrix.bias[rows]
    part = Int8Matrix(matrix.weight[rows], matrix.weight_scale[rows], matrix.activation_scale, bias)
    product = convolution(planes, Int8Conv2d(part, 1, 1, 0))
    return reshape(transpose(product, [0, 2, 3, 1]), [*around, part.weight.shape[0]])


def convolution(node: Node, layer: nn.Module) -> Node:
    """Apply a convolution, in integers or in float, to (B, C, H, W) from `quantize`.

    Raises:
        ValueError: Its integers could be rounded when they become float32.
    """
    bias: Tensor | None
    if isinstance(layer, Int8Conv2d):
        if not is_exact_convolved(layer.matrix):
            sizes = tuple(layer.matrix.weight.shape)
            raise ValueError(f"a convolution of {sizes} weights could pass 2**24, and be rounded")
        size, stride, padding = layer.kernel_size, layer.stride, layer.padding
        channels = layer.matrix.weight.shape[1] // size**2
        kernel = _scaled_steps(layer.matrix, slice(None), [-1, channels, size, size])
        bias = layer.matrix.bias
    elif isinstance(layer, nn.Conv2d):
        stride, padding = layer.stride[0], int(layer.padding[0])
        kernel, bias = constant(layer.weight), layer.bias
    else:
        raise TypeError(f"{type(layer).__name__} is not a convolution")
    around = [padding, padding]
    result = opset13.convolution(node, kernel, [stride, stride], around, around, [1, 1])
    return result if bias is None else opset13.add(result, constant(bias.view(1, -1, 1, 1)))


def is_exact_convolved(matrix: Int8Matrix) -> bool:
    """Return whether no input can make a convolution round an accumulator.

    oneDNN shifts int8 steps to 0..255, sums in int32, converts the sum to float32 and subtracts
    what the shift added. That is exact as long as no shifted sum exceeds 2**24, neither of a row's
    positive weights nor of its negative ones. (With all weights at the limit that holds up to 1,044
    terms; tests check both sides.)
    """
    weight = matrix.weight.numpy()  # NumPy adds int8 without an int32 copy of a large weight
    total, size = weight.sum(1, dtype=np.int32), np.abs(weight).sum(1, dtype=np.int32)
    return (LEVELS - 1) * int((size + np.abs(total)).max() // 2) <= 2**24


def _scaled_steps(matrix: Int8Matrix, rows: slice, sizes: Sequence[int]) -> Node:
    """Return an int8 weight times both scales, which the plugin applies to the accumulators."""
    scale = matrix.activation_scale * matrix.weight_scale[rows]
    steps = opset13.convert(constant(matrix.weight[rows].view(*sizes)), "f32")
    return opset13.multiply(steps, constant(scale.view(-1, *[1] * (len(sizes) - 1))))


def layer_norm(node: Node, norm: Any, axis: int = -1) -> Node:
    """Normalise over one axis, the last or that of channels; ``norm`` has weight, bias and eps."""
    sizes = [-1] if axis == -1 else [-1, 1, 1]
    centred = opset13.mvn(node, shape([axis]), True, float(norm.eps), "inside_sqrt")
    scaled = opset13.multiply(centred, constant(norm.weight.reshape(sizes)))
    return opset13.add(scaled, constant(norm.bias.reshape(sizes)))


def gelu(node: Node) -> Node:
    """Apply the exact GELU."""
    return opset13.gelu(node, "erf")


def softmax_attention(
    query: Node, key: Node, value: Node, scale: float, bias: Node | None = None
) -> Node:
    """Return softmax(scale query key^T + bias) value; all (B, heads, tokens, width)."""
    mask = constant(np.zeros((1, 1), np.float32)) if bias is None else bias
    return opset13.scaled_dot_product_attention(query, key, value, mask, constant(float(scale)))
