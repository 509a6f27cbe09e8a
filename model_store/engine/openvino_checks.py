"""Check, in what OpenVINO compiled, that it multiplies the stored integers exactly.

Two checks run before a mask is predicted, and again in the tests. One layer of each kind is
compiled as the model's are, with scales of 1 and no bias, so that its float output is the
accumulator. It is compared with `model_store.integers` at tolerance 0, for random and extreme
inputs. The second check counts in every compiled graph how many products run on int8: nothing else
would notice a product that silently runs in float.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from openvino import Core, Model, opset13
from torch import Tensor
from torch.nn import functional

from model_store.engine.openvino_layers import (
    LinearProduct,
    convolution,
    linear,
    pointwise_linear,
    quantize,
)
from model_store.int8_layers import Int8Conv2d, Int8Linear, Int8Matrix
from model_store.integers import WEIGHT_LIMIT, ZERO_POINT, reference_accumulate

LARGEST_TERMS = 2080
"""Sums of this many terms at the extremes stay below 2**24, beyond which float32 rounds."""

LINEAR_SHAPES = ((1, 32, 8), (7, 128, 64), (256, 192, 576), (196, 768, 100), (33, 3072, 17))
"""Rows, terms and columns."""

CONVOLUTION_SHAPES = ((1, 16, 16, 0, 48), (3, 16, 16, 0, 64), (192, 1, 1, 0, 32), (64, 3, 1, 1, 24))
"""Input channels, kernel, stride, padding and outputs: patch embeddings and neck."""

QUICK_LINEAR_SHAPES, QUICK_CONVOLUTION_SHAPES = LINEAR_SHAPES[1:3], CONVOLUTION_SHAPES[::2]
"""What is checked whenever a model is loaded."""

PRODUCTS = ("FullyConnected", "Convolution", "MatMul")

GENERAL_PRIMITIVE = "jit_gemm_i8"
"""oneDNN's generic int8 matrix product, for processors that it has no specialized code for."""

_GRID = 3
"""Side of a convolution's result."""


class InexactError(RuntimeError):
    """OpenVINO differs from the definition on this processor; the message says where."""


def check_products(
    core: Core,
    config: Mapping[str, Any],
    linear_shapes: Iterable[tuple[int, int, int]] = QUICK_LINEAR_SHAPES,
    convolution_shapes: Iterable[tuple[int, int, int, int, int]] = QUICK_CONVOLUTION_SHAPES,
    products: Iterable[LinearProduct] = (linear,),
) -> None:
    """Compare one layer of each kind with the definition.

    Args:
        core: OpenVINO.
        config: What models are compiled with.
        linear_shapes: Rows, terms and columns.
        convolution_shapes: Input channels, kernel, stride, padding and outputs.
        products: Ways to write a linear layer, each checked.

    Raises:
        InexactError: An accumulator differs, or a product does not run on int8.
    """
    for rows, terms, outputs in linear_shapes:
        layer = Int8Linear(_unit_matrix(outputs, terms))
        values = extreme_rows(rows, terms)
        wanted = _accumulators(values, layer.matrix)
        for product in products:
            _compare(core, config, values, wanted, layer, product)
    for channels, kernel, stride, padding, outputs in convolution_shapes:
        matrix = _unit_matrix(outputs, channels * kernel**2)
        side = (_GRID - 1) * stride + kernel - 2 * padding
        planes = extreme_rows(side * side, channels).T.reshape(1, channels, side, side)
        padded = functional.pad(planes, (padding,) * 4)
        patches = functional.unfold(padded, kernel, stride=stride)[0].T  # (places, terms)
        wanted = _accumulators(patches, matrix).T.reshape(1, outputs, _GRID, _GRID)
        convolved = Int8Conv2d(matrix, kernel, stride, padding)
        _compare(core, config, planes, wanted, convolved, convolution)


def extreme_rows(rows: int, terms: int) -> Tensor:
    """Return activations as steps in float32 (rows, terms): all low, all high, or random."""
    values = torch.randint(-ZERO_POINT, ZERO_POINT, (rows, terms), generator=_generator()).float()
    values[0::3], values[1::3] = -128.0, 127.0
    return values


def _unit_matrix(outputs: int, terms: int) -> Int8Matrix:
    """Return weights whose rows are in turn all lowest, all highest and random; scales of 1."""
    weight = torch.randint(
        -WEIGHT_LIMIT, WEIGHT_LIMIT + 1, (outputs, terms), generator=_generator(), dtype=torch.int8
    )
    weight[0::3], weight[1::3] = WEIGHT_LIMIT, -WEIGHT_LIMIT
    weight[:, LARGEST_TERMS::2] *= -1  # what is beyond cancels out
    return Int8Matrix(weight, torch.ones(outputs), torch.ones(()), None)


def _accumulators(values: Tensor, matrix: Int8Matrix) -> Tensor:
    return reference_accumulate((values + ZERO_POINT).to(torch.uint8), matrix.weight)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _compare(
    core: Core,
    config: Mapping[str, Any],
    values: Tensor,
    wanted: Tensor,
    layer: Any,
    apply: Callable[..., Any],
) -> None:
    model = _one_layer(values.shape, layer, apply)
    compiled = core.compile_model(model, "CPU", config)
    name = f"{type(layer).__name__} of {tuple(layer.matrix.weight.shape)} weights"
    require_integer_products(model, compiled, name)
    got = torch.from_numpy(compiled([values.contiguous().numpy()])[0])
    error = (got.double() - wanted.double()).abs().max()
    if error > 0:
        raise InexactError(f"{name}: an accumulator is off by {float(error):.0f}")


def _one_layer(sizes: Sequence[int], layer: Any, apply: Callable[..., Any]) -> Model:
    entry = opset13.parameter(list(sizes), np.float32)
    return Model([apply(quantize(entry, layer), layer)], [entry], "check")


def fastest_linear(core: Core, config: Mapping[str, Any]) -> LinearProduct:
    """Return the fastest way to write linear layers of many rows on this processor.

    Without AVX-512 or VNNI oneDNN multiplies int8 rows by a general product, about half as fast as
    its convolution with a kernel of 1 x 1 (`benchmarks.engines.cpu_engines` measures it).
    """
    layer = Int8Linear(_unit_matrix(256, 64))
    compiled = core.compile_model(_one_layer((1, 64, 64), layer, linear), "CPU", config)
    primitives = {product.primitive for product in executed_products(compiled)}
    return pointwise_linear if GENERAL_PRIMITIVE in primitives else linear


def require_integer_products(model: Model, compiled: Any, name: str) -> None:
    """Check that every int8 weight of a graph is multiplied with int8 activations.

    Args:
        model: The graph.
        compiled: What OpenVINO made of it.
        name: Of the graph, for the message.

    Raises:
        InexactError: A product runs in another precision.
    """
    wanted = sum(
        node.get_type_name() == "Constant" and node.get_element_type().get_type_name() == "i8"
        for node in model.get_ops()
    )
    integer = sum(product.on_integers for product in executed_products(compiled))
    if integer != wanted:
        raise InexactError(f"{name}: {integer} of {wanted} integer layers run on integers")


@dataclass(frozen=True)
class ExecutedProduct:
    """A product as OpenVINO executes it.

    Attributes:
        kind: Name of its operation.
        primitive: Name of the code that multiplies; ``_i8`` at its end means int8.
        precision: Element type of the activations.
    """

    kind: str
    primitive: str
    precision: str

    @property
    def on_integers(self) -> bool:
        """Whether int8 is multiplied with int8; a weight alone may be converted to float32."""
        return self.primitive.lower().endswith("_i8") and self.precision in ("i8", "u8")


def executed_products(compiled: Any) -> list[ExecutedProduct]:
    """Return the products that a compiled graph executes outside of fused operations."""
    found = []
    for node in compiled.get_runtime_model().get_ops():
        about = node.get_rt_info()
        kind = about["layerType"].astype(str)
        if kind in PRODUCTS:
            precision = node.input_value(0).get_element_type().get_type_name()
            found.append(ExecutedProduct(kind, about["primitiveType"].astype(str), precision))
    return found
