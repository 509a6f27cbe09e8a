"""SAM's mask decoder as an OpenVINO graph for one box, from the stored integers.

Image tokens stay rows (1, N, D) to the end. Kernels of the decoder's two transposed convolutions do
not overlap, so they are products of rows, too. Only the mask logits are reordered.
(`model_store.engine.openvino_encoder` explains the first axis.)
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from openvino import Model, opset13
from torch import nn

from model_store.engine.openvino_layers import (
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


def decoder_graph(model: PromptableSam, input_size: int) -> Model:
    """Return the graph of prompt encoder and mask decoder.

    Args:
        model: Model whose weights become constants of the graph.
        input_size: Side of the model's input, in pixels.

    Returns:
        A graph from an embedding (1, D, G, G) and a box (1, 4) in pixels of the input to mask
        logits (1, T, 4G, 4G) and predicted IoU (1, T).
    """
    grid = int(model.image_encoder.pos_embed.shape[1])
    decoder, prompts = model.mask_decoder, model.prompt_encoder
    width, count = int(decoder.transformer_dim), int(decoder.num_mask_tokens)
    embedding = opset13.parameter([1, width, grid, grid], np.float32)
    box = opset13.parameter([1, 4], np.float32)
    learned = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    shifted = opset13.add(box, constant(model.box_shift_px)) if model.box_shift_px else box
    corners = _corners(shifted, prompts, input_size)
    tokens = opset13.concat([constant(learned[None]), corners], 1)  # (1, P, D)
    source = reshape(transpose(embedding, [0, 2, 3, 1]), [1, grid * grid, width])
    source = opset13.add(source, _dense_prompt(box, model, input_size))
    position = constant(prompts.get_dense_pe().flatten(2).transpose(1, 2))  # (1, N, D)
    hidden, source = _transformer(decoder.transformer, source, position, tokens)
    iou = _perceptron(_row(hidden, 0), decoder.iou_prediction_head)  # (1, 1, T)
    weights = [
        _perceptron(_row(hidden, 1 + index), perceptron)
        for index, perceptron in enumerate(decoder.output_hypernetworks_mlps)
    ]
    upscaled = _upscale(source, decoder.output_upscaling)  # (1, N * 16, D / 8)
    masks = opset13.matmul(opset13.concat(weights, 1), upscaled, False, True)  # (1, T, N * 16)
    # Two nested halvings of a pixel: (T, y, x, y2, x2, y4, x4).
    nested = reshape(masks, [count, grid, grid, 2, 2, 2, 2])
    ordered = transpose(nested, [0, 1, 3, 5, 2, 4, 6])
    logits = reshape(ordered, [1, count, 4 * grid, 4 * grid])
    return Model([logits, reshape(iou, [1, count])], [embedding, box], "decoder")


def _corners(box: Node, prompts: Any, input_size: int) -> Node:
    """Return the tokens of a box (1, 4), which are its two corners, (1, 2, D).

    Boxes are continuous edges here, so SAM's half pixel is not added.
    """
    frequencies = prompts.pe_layer.positional_encoding_gaussian_matrix  # (2, D / 2)
    share = opset13.divide(reshape(box, [1, 2, 2]), constant(float(input_size)))
    centred = opset13.subtract(opset13.multiply(share, constant(2.0)), constant(1.0))
    angle = opset13.matmul(centred, constant(frequencies), False, False)
    angle = opset13.multiply(angle, constant(2.0 * np.pi))
    waves = opset13.concat([opset13.sin(angle), opset13.cos(angle)], 2)
    learned = torch.cat([embedding.weight for embedding in prompts.point_embeddings[2:]])
    return opset13.add(waves, constant(learned[None]))


def _dense_prompt(box: Node, model: PromptableSam, input_size: int) -> Node:
    """Return what a box (1, 4) adds to all image rows, (1, 1, D), or to each, (1, N, D)."""
    prompts = model.prompt_encoder
    if not model.box_as_mask:
        return constant(prompts.no_mask_embed.weight[None])
    first, first_norm, _, second, second_norm, _, last = prompts.mask_downscaling
    drawn = _rasterized_box(box, input_size, int(prompts.mask_input_size[0]))
    halved = gelu(layer_norm(convolution(drawn, first), first_norm, axis=1))
    quartered = gelu(layer_norm(convolution(halved, second), second_norm, axis=1))
    dense = convolution(quartered, last)  # (1, D, G, G)
    return reshape(transpose(dense, [0, 2, 3, 1]), [1, -1, int(last.out_channels)])


def _rasterized_box(box: Node, input_size: int, side: int) -> Node:
    """Rasterize a box (1, 4) as `model_store.box_raster.rasterize_boxes` does, (1, 1, M, M)."""
    edges = reshape(opset13.multiply(box, constant(side / input_size)), [2, 2])  # low, high
    left = np.arange(side, dtype=np.float32)[:, None]  # (M, 1) against x and y, (1, 2)
    high = opset13.minimum(constant(left + 1), _row(edges, 1, axis=0))
    low = opset13.maximum(constant(left), _row(edges, 0, axis=0))
    covered = transpose(opset13.clamp(opset13.subtract(high, low), 0.0, 1.0), [1, 0])  # (2, M)
    columns = reshape(_row(covered, 0, axis=0), [1, 1, 1, side])
    rows = reshape(_row(covered, 1, axis=0), [1, 1, side, 1])
    inside = opset13.multiply(rows, columns)
    return opset13.subtract(opset13.multiply(inside, constant(2.0)), constant(1.0))


def _transformer(transformer: Any, source: Node, position: Node, tokens: Node) -> tuple[Node, Node]:
    """Let tokens (1, P, D) and image rows (1, N, D) attend to each other."""
    hidden = tokens
    for block in transformer.layers:
        if block.skip_first_layer_pe:
            hidden = _attention(block.self_attn, hidden, hidden, hidden)
        else:
            asking = opset13.add(hidden, tokens)
            hidden = opset13.add(hidden, _attention(block.self_attn, asking, asking, hidden))
        hidden = layer_norm(hidden, block.norm1)
        asking, placed = opset13.add(hidden, tokens), opset13.add(source, position)
        seen = _attention(block.cross_attn_token_to_image, asking, placed, source)
        hidden = layer_norm(opset13.add(hidden, seen), block.norm2)
        changed = _linear(opset13.relu(_linear(hidden, block.mlp.lin1)), block.mlp.lin2)
        hidden = layer_norm(opset13.add(hidden, changed), block.norm3)
        asking = opset13.add(hidden, tokens)
        seen = _attention(block.cross_attn_image_to_token, placed, asking, hidden)
        source = layer_norm(opset13.add(source, seen), block.norm4)
    asking, placed = opset13.add(hidden, tokens), opset13.add(source, position)
    seen = _attention(transformer.final_attn_token_to_image, asking, placed, source)
    return layer_norm(opset13.add(hidden, seen), transformer.norm_final_attn), source


def _attention(attention: Any, query: Node, key: Node, value: Node) -> Node:
    """Attend with queries (1, Q, D) to keys and values (1, K, D); returns (1, Q, D)."""
    heads, width = int(attention.num_heads), int(attention.internal_dim)
    queries, keys, values = (
        transpose(reshape(_linear(node, layer), [1, -1, heads, width // heads]), [0, 2, 1, 3])
        for node, layer in (
            (query, attention.q_proj), (key, attention.k_proj), (value, attention.v_proj)
        )
    )  # fmt: skip
    mixed = softmax_attention(queries, keys, values, (width // heads) ** -0.5)
    return _linear(reshape(transpose(mixed, [0, 2, 1, 3]), [1, -1, width]), attention.out_proj)


def _upscale(source: Node, upscaling: nn.Sequential) -> Node:
    """Enlarge image rows (1, N, D) four times, to (1, N * 16, D / 8)."""
    first, norm, _, second, _ = upscaling
    once = gelu(layer_norm(_enlarge(source, first), norm))
    return gelu(_enlarge(once, second))


def _enlarge(rows: Node, layer: nn.Module) -> Node:
    """Apply a transposed convolution of kernel and stride 2 to rows (1, N, K): (1, N * 4, O)."""
    assert isinstance(layer, nn.ConvTranspose2d) and layer.bias is not None
    weight = layer.weight.detach().permute(2, 3, 1, 0)  # (2, 2, O, K)
    outputs, terms = weight.shape[2], weight.shape[3]
    product = opset13.matmul(rows, constant(weight.reshape(4 * outputs, terms)), False, True)
    return opset13.add(reshape(product, [1, -1, outputs]), constant(layer.bias))


def _perceptron(row: Node, perceptron: Any) -> Node:
    """Apply the linear layers of an ``MLP`` to (1, 1, D), ReLU between them."""
    for index, layer in enumerate(perceptron.layers):
        row = _linear(opset13.relu(row) if index else row, layer)
    return row


def _linear(node: Node, layer: nn.Module) -> Node:
    return linear(quantize(node, layer), layer)


def _row(rows: Node, index: int, axis: int = 1) -> Node:
    return opset13.slice(rows, shape([index]), shape([index + 1]), shape([1]), shape([axis]))
