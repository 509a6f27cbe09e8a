"""Post-training quantization to few levels, the start and the baseline of training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from model_store.quantizable import quantizable_layers, replace_module
from model_store.sam import PromptableSam
from model_store.weight_levels import WeightLevels
from training.quantization.fake_quantization import EXECUTED_BITS, sampling
from training.quantization.few_level_layer import FewLevelQuantized
from training.quantization.gptq import gptq_weight
from training.quantization.input_moments import InputMoments, observed_inputs
from training.quantization.scale_fitting import largest_scale, least_squares_scale

Rounding = Literal["largest", "least_squares", "gptq"]
"""Methods of rounding: to nearest at the scale that fits the largest weight; to nearest at the
scale of least squared error; or one input after the other, by the inputs' moments (GPTQ)."""

ROUNDINGS: tuple[Rounding, ...] = get_args(Rounding)

ModelInputs = tuple[Tensor, Tensor, Tensor]
"""Normalised images, boxes and the image of each box, for `PromptableSam.forward`."""


def add_few_levels(
    model: PromptableSam,
    levels: WeightLevels,
    names: Iterable[str],
    activation_bits: int = EXECUTED_BITS,
) -> dict[str, FewLevelQuantized]:
    """Wrap the named float layers; until `round_weights` they are rounded to nearest."""
    layers: dict[str, FewLevelQuantized] = {}
    for name in names:
        source = model.get_submodule(name)
        assert isinstance(source, nn.Linear | nn.Conv2d)
        layers[name] = FewLevelQuantized(source, levels, activation_bits)
        replace_module(model, name, layers[name])
    return layers


@torch.no_grad()
def round_weights(
    model: PromptableSam,
    layers: Mapping[str, FewLevelQuantized],
    inputs: Iterable[ModelInputs],
    rounding: Rounding = "gptq",
) -> None:
    """Set weights and activation scales from the inputs of the float model's layers.

    Args:
        model: A float model with these layers wrapped.
        layers: The wrapped layers, by name.
        inputs: Inputs of at least 48 X-rays.
        rounding: Method of rounding.
    """
    moments = observe(model, layers, inputs)
    for name, layer in layers.items():
        round_layer(layer, moments.pop(name), rounding)


@torch.no_grad()
def observe(
    model: PromptableSam, layers: Mapping[str, FewLevelQuantized], inputs: Iterable[ModelInputs]
) -> dict[str, InputMoments]:
    """Run the float model, set activation scales, and return the moments of each layer's inputs."""
    model.eval()
    sources = {name: layer.source for name, layer in layers.items()}
    with sampling(layers.values()), observed_inputs(sources) as moments:
        for normalized, boxes, image_index in inputs:
            model(normalized, boxes, image_index)
    return moments


@torch.no_grad()
def round_layer(layer: FewLevelQuantized, seen: InputMoments, rounding: Rounding) -> None:
    """Set one layer's weights, and by GPTQ its bias, from the moments of its inputs."""
    weight = layer.source.weight.detach().flatten(1)
    levels = layer.levels
    if rounding == "largest":
        scale = largest_scale(weight, levels)
        layer.start_at(levels.nearest(weight / scale[:, None]), scale)
    elif rounding == "least_squares":
        scale = least_squares_scale(weight, levels)
        layer.start_at(levels.nearest(weight / scale[:, None]), scale)
    else:
        has_bias = layer.source.bias is not None
        # On the CPU, because a GPU would wait for hundreds of columns one by one.
        rounded = gptq_weight(weight.cpu(), seen.second(about_mean=has_bias).cpu(), levels)
        integers, scale = rounded.integers.to(weight), rounded.scale.to(weight)
        if has_bias:
            off = weight - integers * scale[:, None]
            layer.shift_bias((off.double() @ seen.mean).to(weight.dtype))
        layer.start_at(integers, scale)


def float_layer_names(model: PromptableSam) -> list[str]:
    """Return the names of the quantizable float layers."""
    return list(quantizable_layers(model))
