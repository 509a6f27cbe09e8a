"""Putting adapters and fake quantization into a model, taking them out, reading them back.

A checkpoint names its stage and its settings; `model_from_checkpoint` builds the same structure
around the same weights, so that each stage can start from the one before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from model_store.architecture import SamConfig, build_sam
from model_store.meta_checkpoint import (
    is_meta_checkpoint,
    load_meta_checkpoint,
    resize_position_tables,
)
from model_store.quantizable import quantizable_layers, replace_module
from model_store.sam import PromptableSam
from training.adalora import AdaLoraQkv
from training.checkpoint import BEST, CheckpointError, load_checkpoint
from training.config import AdaLoraConfig, ConfigError
from training.fake_quantization import FakeQuantized

Layer = TypeVar("Layer", bound=nn.Module)


def add_adapters(model: PromptableSam, config: AdaLoraConfig) -> dict[str, AdaLoraQkv]:
    """Wrap the ``qkv`` layer of every encoder block, and return the wrapped layers by name."""
    adapters: dict[str, AdaLoraQkv] = {}
    for index in range(len(model.image_encoder.blocks)):
        name = f"image_encoder.blocks.{index}.attn.qkv"
        layer = model.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        adapters[name] = AdaLoraQkv(layer, config)
        replace_module(model, name, adapters[name])
    return adapters


def merge_adapters(model: PromptableSam) -> None:
    """Replace every adapted layer by a plain one that multiplies by the folded weight."""
    for name, adapter in find_layers(model, AdaLoraQkv).items():
        merged = nn.Linear(adapter.base.in_features, adapter.base.out_features)
        with torch.no_grad():
            merged.weight.copy_(adapter.folded_weight())
            merged.bias.copy_(adapter.base.bias)
        replace_module(model, name, merged)


def add_fake_quantization(
    model: PromptableSam, float_layers: tuple[str, ...]
) -> dict[str, FakeQuantized]:
    """Wrap every layer that can become integers but ``float_layers``.

    Raises:
        ConfigError: A name in ``float_layers`` is none of them.
    """
    names = quantizable_names(model)
    unknown = sorted(set(float_layers) - set(names))
    if unknown:
        raise ConfigError(f"qat.float_layers names no layer that could be quantized: {unknown[0]}")
    layers: dict[str, FakeQuantized] = {}
    for name in names:
        if name not in float_layers:
            layers[name] = FakeQuantized(model.get_submodule(name))  # type: ignore[arg-type]
            replace_module(model, name, layers[name])
    return layers


def quantizable_names(model: PromptableSam) -> list[str]:
    """Return the layers that can become integers; an adapted layer counts as one."""
    names = [name.removesuffix(".base") for name in quantizable_layers(model)]
    return [name.removesuffix(".source").removesuffix(".base") for name in names]


def find_layers(model: nn.Module, kind: type[Layer]) -> dict[str, Layer]:
    """Return all modules of a kind, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, kind)}


def model_from_checkpoint(state: Mapping[str, Any]) -> tuple[SamConfig, PromptableSam]:
    """Build the model of a checkpoint, with the adapters and fake quantization it had."""
    architecture = SamConfig.from_dict(state["architecture"])
    model = build_sam(architecture)
    stage, config = state["stage"], state["config"]
    if stage in ("stage1", "stage2"):
        adapters = add_adapters(model, AdaLoraConfig(**config["adalora"]))
        for adapter in adapters.values():
            adapter.frozen_mask = True
    if stage == "stage2":
        add_fake_quantization(model, tuple(config["qat"]["float_layers"]))
    model.load_state_dict(state["model"])
    return architecture, model


@dataclass(frozen=True)
class Base:
    """What a stage starts from.

    Attributes:
        architecture: Sizes of the model.
        model: The model, with the adapters and fake quantization that it had.
        stage: Name of the stage that made it; ``meta`` for Meta's file.
        lineage: What was trained before, first stage first, for the manifest.
        adalora: Settings of the adapters in the model, if it has any.
    """

    architecture: SamConfig
    model: PromptableSam
    stage: str
    lineage: tuple[dict[str, Any], ...]
    adalora: AdaLoraConfig | None = None


def load_base(path: Path, input_size: int | None = None) -> Base:
    """Load a checkpoint of ours, the best one of a run's folder, or Meta's file.

    Args:
        path: The file or folder.
        input_size: Side of the input to interpolate position tables to; None keeps the file's.

    Raises:
        CheckpointError: The file is not there or not usable.
    """
    file = path / BEST if path.is_dir() else path
    if not file.exists():
        raise CheckpointError(f"{file} does not exist")
    if is_meta_checkpoint(file):
        try:
            architecture, model = load_meta_checkpoint(file, input_size)
        except ValueError as error:
            raise CheckpointError(str(error)) from error
        return Base(architecture, model, "meta", ({"stage": "meta", "file": file.name},))
    state = load_checkpoint(file)
    architecture, model = model_from_checkpoint(state)
    if input_size not in (None, architecture.input_size):
        architecture, model = _resized(architecture, model, int(input_size or 0))
    adalora = AdaLoraConfig(**state["config"]["adalora"]) if state["stage"] != "pretrain" else None
    return Base(architecture, model, str(state["stage"]), lineage_of(state), adalora)


def _resized(
    architecture: SamConfig, model: PromptableSam, input_size: int
) -> tuple[SamConfig, PromptableSam]:
    if find_layers(model, AdaLoraQkv):
        raise CheckpointError("the input size can change before stage 1 only")
    changed = SamConfig.from_dict({**architecture.to_dict(), "input_size": input_size})
    resized = build_sam(changed)
    resized.load_state_dict(resize_position_tables(model.state_dict(), resized.state_dict()))
    return changed, resized


def lineage_of(state: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    """Return what led to a checkpoint, itself last."""
    config = state["config"]
    own: dict[str, Any] = {
        "stage": state["stage"],
        "steps": state["step"],
        "batch_size": config["batch_size"],
        "seed": config["seed"],
        "precision": config["precision"],
        "phantoms": config["data"]["phantoms"],
        "input_size": state["architecture"]["input_size"],
        "validation_selection": state["best"],
    }
    if "ranks" in state["stage_state"]:
        own["ranks"] = state["stage_state"]["ranks"]
    return (*state.get("lineage", ()), own)
