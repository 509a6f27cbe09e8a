"""Putting adapters into a model and folding them into its weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import nn

from model_store.quantizable import replace_module
from model_store.sam import PromptableSam
from training.adapters.adalora import AdaLoraLinear
from training.adapters.adapted_linear import LAYER_SLICES, AdaptedLinear
from training.adapters.config import AdaLoraConfig, LoraConfig
from training.adapters.lora import LoraLinear

Layer = TypeVar("Layer", bound=nn.Module)


def add_adapters(model: PromptableSam, config: AdaLoraConfig) -> dict[str, AdaLoraLinear]:
    """Wrap the targets of AdaLoRA in every encoder block; return the wrapped layers by name."""
    return _adapt(model, config.targets, lambda layer, names: AdaLoraLinear(layer, config, names))


def add_lora(model: PromptableSam, config: LoraConfig) -> dict[str, LoraLinear]:
    """Wrap the targets of LoRA in every encoder block; return the wrapped layers by name."""
    return _adapt(model, config.targets, lambda layer, names: LoraLinear(layer, config, names))


def _adapt(
    model: PromptableSam,
    targets: Sequence[str],
    wrap: Callable[[nn.Linear, tuple[str, ...]], Layer],
) -> dict[str, Layer]:
    adapters: dict[str, Layer] = {}
    for index in range(len(model.image_encoder.blocks)):
        for path, slices in LAYER_SLICES.items():
            if not set(slices) & set(targets):
                continue
            name = f"image_encoder.blocks.{index}.{path}"
            layer = model.get_submodule(name)
            assert isinstance(layer, nn.Linear)
            adapters[name] = wrap(layer, slices)
            replace_module(model, name, adapters[name])
    return adapters


def merge_adapters(model: PromptableSam) -> None:
    """Replace every adapted layer by a plain one with the folded weight."""
    for name, adapter in find_layers(model, AdaptedLinear).items():
        with torch.no_grad():
            adapter.base.weight.copy_(adapter.folded_weight())
        replace_module(model, name, adapter.base)


def find_layers(model: nn.Module, kind: type[Layer]) -> dict[str, Layer]:
    """Return all modules of a kind, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, kind)}
