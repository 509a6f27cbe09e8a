"""SAM's image encoder as an OpenVINO graph for one image, from the stored integers.

The residual stream is rows (1, N, E). With four axes OpenVINO computes LayerNorm in two passes and
transposes its inputs. With two it fuses small layers into one operation that does not show whether
it runs on integers. Tokens move between windows as int8 steps, a quarter of the bytes of float32.
So the input of the products is quantized before it is cut into windows, and the result of attention
before it is put back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from openvino import Model, opset13

from model_store.engine.openvino_layers import (
    ALL,
    LinearProduct,
    Node,
    constant,
    convolution,
    gelu,
    layer_norm,
    linear,
    quantize,
    reshape,
    shape,
    softmax_attention,
    transpose,
)
from model_store.sam import PromptableSam

LARGEST_BIAS_BYTES = 64 * 2**20
"""Most bytes of position scores at a time. It limits how many heads are computed together: on a
grid of 64 x 64, one head. Blocks of queries instead of heads are slower."""


def encoder_graph(model: PromptableSam, input_size: int, product: LinearProduct = linear) -> Model:
    """Return the graph that maps images (1, C, S, S) to embeddings (1, D, G, G).

    Args:
        model: Model whose weights become constants of the graph.
        input_size: Side of the model's input, in pixels.
        product: Builder of linear layers: `linear` or `pointwise_linear`.
    """
    encoder = model.image_encoder
    channels = int(model.pixel_mean.shape[1])
    grid, width = int(encoder.pos_embed.shape[1]), int(encoder.pos_embed.shape[3])
    pixels = opset13.parameter([1, channels, input_size, input_size], np.float32)
    patches = _convolution(pixels, encoder.patch_embed.proj)  # (1, E, G, G)
    rows = reshape(transpose(patches, [0, 2, 3, 1]), [1, grid * grid, width])
    rows = opset13.add(rows, constant(encoder.pos_embed.reshape(1, -1, width)))  # (1, N, E)
    for block in encoder.blocks:
        normed = layer_norm(rows, block.norm1)
        rows = opset13.add(rows, _attention(normed, block, grid, width, product))
        hidden = _linear(layer_norm(rows, block.norm2), block.mlp.lin1, product)
        rows = opset13.add(rows, _linear(gelu(hidden), block.mlp.lin2, product))
    planes = transpose(reshape(rows, [1, grid, grid, width]), [0, 3, 1, 2])  # (1, E, G, G)
    first, norm, second, last_norm = encoder.neck
    planes = layer_norm(_convolution(planes, first), norm, axis=1)
    planes = layer_norm(_convolution(planes, second), last_norm, axis=1)
    return Model([planes], [pixels], "encoder")


def _linear(node: Node, layer: Any, product: LinearProduct) -> Node:
    return product(quantize(node, layer), layer, ALL)


def _convolution(node: Node, layer: Any) -> Node:
    return convolution(quantize(node, layer), layer)


def _attention(rows: Node, block: Any, grid: int, width: int, product: LinearProduct) -> Node:
    """Map normalised rows (1, N, E) to the output of attention (1, N, E)."""
    attention: Any = block.attn
    window = int(block.window_size) or grid
    count = -(-grid // window)
    padded = quantize(_pad(rows, grid, count * window, width), attention.qkv)
    inside = _to_windows(padded, count, window, width)
    mixed = quantize(_mix(inside, attention, window, width, product), attention.proj)
    return product(_from_windows(mixed, grid, window, width), attention.proj, ALL)


def _pad(rows: Node, grid: int, side: int, width: int) -> Node:
    """Pad the rows of a grid (1, N, E) with 0 at the right and bottom, to (1, side ** 2, E).

    Padding precedes quantization: where a convolution follows, OpenVINO turns padded steps into
    floats.
    """
    if side == grid:
        return rows
    ends = shape([side - grid, side - grid, 0])
    square = reshape(rows, [grid, grid, width])
    square = opset13.pad(square, shape([0, 0, 0]), ends, "constant", constant(0.0))
    return reshape(square, [1, side * side, width])


def _to_windows(rows: Node, count: int, window: int, width: int) -> Node:
    """Put rows (1, N, E) in the order of count ** 2 windows, (1, N, E)."""
    if count == 1:
        return rows
    cut = reshape(rows, [count, window, count, window, width])
    return reshape(transpose(cut, [0, 2, 1, 3, 4]), [1, (count * window) ** 2, width])


def _from_windows(rows: Node, grid: int, window: int, width: int) -> Node:
    """Put rows of windows (1, W * window ** 2, E) back into the order of the image (1, N, E)."""
    count, over = -(-grid // window), -grid % window
    if count == 1 and not over:
        return rows
    joined = transpose(reshape(rows, [count, count, window, window, width]), [0, 2, 1, 3, 4])
    square = reshape(joined, [count * window, count * window, width])
    if over:
        start, stop, step, axes = shape([0, 0]), shape([grid, grid]), shape([1, 1]), shape([0, 1])
        square = opset13.slice(square, start, stop, step, axes)
    return reshape(square, [1, grid * grid, width])


def _mix(rows: Node, attention: Any, side: int, width: int, product: LinearProduct) -> Node:
    """Mix the values of each window of ``side`` x ``side`` rows (1, W * side ** 2, E)."""
    heads, tokens = int(attention.num_heads), side * side
    size = width // heads
    windows = rows.get_output_partial_shape(0).to_shape()[1] // tokens
    parts = []
    for index in range(3):  # three products avoid a split
        part = product(rows, attention.qkv, slice(index * width, (index + 1) * width))
        by_head = transpose(reshape(part, [windows, tokens, heads, size]), [0, 2, 1, 3])
        parts.append(reshape(by_head, [windows * heads, tokens, size]))
    scores = _position_scores(parts[0], attention, windows * heads, side, size)
    mixed = _attend([*parts, *scores], windows * heads, side, size)  # (1, W * heads, tokens, size)
    by_token = transpose(reshape(mixed, [windows, heads, tokens, size]), [0, 2, 1, 3])
    return reshape(by_token, [1, windows * tokens, width])


def _position_scores(
    query: Node, attention: Any, count: int, side: int, size: int
) -> tuple[Node, Node]:
    """Return each query's products with all rows and all columns, (count, y, x, side) each."""
    line = np.arange(side)
    distance = line[:, None] - line[None, :] + side - 1  # (side, side), query first
    tables = [
        constant(np.ascontiguousarray(table.detach().numpy()[distance][None]))
        for table in (attention.rel_pos_h, attention.rel_pos_w)
    ]
    square = reshape(query, [count, side, side, size])
    near_y = opset13.matmul(square, tables[0], False, True)
    near_x = opset13.matmul(transpose(square, [0, 2, 1, 3]), tables[1], False, True)
    return near_y, transpose(near_x, [0, 2, 1, 3])


def _attend(parts: Sequence[Node], count: int, side: int, size: int) -> Node:
    """Attend within each head of each window.

    Args:
        parts: Queries, keys and values (count, N, size), and both position scores.
        count: Heads times windows.
        side: Side of a window.
        size: Width of a head.

    Returns:
        (1, count, N, size).
    """
    tokens = side * side
    at_once = _heads_at_once(count, tokens)
    axis = constant(np.int64(0))
    cut = [opset13.split(part, axis, count // at_once).outputs() for part in parts]
    mixed = []
    for query, key, value, part_y, part_x in zip(*cut, strict=True):
        bias = opset13.add(
            reshape(part_y, [at_once, side, side, side, 1]),
            reshape(part_x, [at_once, side, side, 1, side]),
        )
        bias = reshape(bias, [1, at_once, tokens, tokens])
        query, key, value = (
            reshape(part, [1, at_once, tokens, size]) for part in (query, key, value)
        )
        mixed.append(softmax_attention(query, key, value, size**-0.5, bias))
    return opset13.concat(mixed, 1)


def _heads_at_once(count: int, tokens: int) -> int:
    """Return the largest divisor of ``count`` whose position scores fit."""
    fitting = max(1, LARGEST_BIAS_BYTES // (4 * tokens * tokens))
    return max(part for part in range(1, count + 1) if count % part == 0 and part <= fitting)
