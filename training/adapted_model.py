"""Putting adapters and fake quantization into a model, taking them out, reading them back.

A checkpoint names its stage and its settings; `model_from_checkpoint` builds the same structure
around the same weights, so that each stage can start from the one before it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from model_store.architecture import SamConfig, build_sam
from model_store.artifact import MANIFEST_FILE, load_model
from model_store.conventions import CONVENTIONS
from model_store.meta_checkpoint import is_meta_checkpoint, load_meta_checkpoint
from model_store.quantizable import quantizable_layers, replace_module
from model_store.sam import PromptableSam
from training.adapters.adalora import AdaLoraLinear
from training.adapters.adapted_linear import LAYER_SLICES, AdaptedLinear
from training.adapters.config import AdaLoraConfig, AdaptationConfig, LoraConfig
from training.adapters.lora import LoraLinear
from training.checkpoint import BEST, load_checkpoint
from training.config import build_settings
from training.errors import CheckpointError
from training.quantization.fake_quantization import FakeQuantized
from training.quantization.sensitivity.choice import (
    EVERY_LAYER_INT8,
    PrecisionChoice,
    check_layers,
    stored_choice,
)
from training.stages.resizing import resized_model

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
    """Replace every adapted layer by a plain one that multiplies by the folded weight."""
    for name, adapter in find_layers(model, AdaptedLinear).items():
        with torch.no_grad():
            adapter.base.weight.copy_(adapter.folded_weight())
        replace_module(model, name, adapter.base)


def add_fake_quantization(
    model: PromptableSam, choice: PrecisionChoice = EVERY_LAYER_INT8
) -> dict[str, FakeQuantized]:
    """Wrap every layer that can become integers but those that were chosen to stay float.

    Raises:
        ConfigError: The choice was made for another model.
    """
    names = quantizable_names(model)
    check_layers(choice, names)
    layers: dict[str, FakeQuantized] = {}
    for name in names:
        if name not in choice.float_layers:
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
    stage, settings = state["stage"], adapter_settings(state)
    if settings and settings["adaptation"].method == "adalora":
        for adapter in add_adapters(model, settings["adalora"]).values():
            adapter.frozen_mask = True
    if settings and settings["adaptation"].method == "lora":
        add_lora(model, settings["lora"])
    if stage == "stage2":
        add_fake_quantization(model, stored_choice(state))
    model.load_state_dict(state["model"])
    return architecture, model


def adapter_settings(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings, by table, by which the adapters of a checkpoint were made.

    Empty before stage 1. Checkpoints from before there was a choice of methods are AdaLoRA's.
    """
    if state["stage"] == "pretrain":
        return {}
    tables = {"adaptation": AdaptationConfig, "adalora": AdaLoraConfig, "lora": LoraConfig}
    config = state["config"]
    return {name: build_settings(kind, config.get(name, {}), name) for name, kind in tables.items()}


@dataclass(frozen=True)
class Base:
    """What a stage starts from.

    Attributes:
        architecture: Sizes of the model.
        model: The model, with the adapters and fake quantization that it had.
        stage: Name of the stage that made it; ``meta`` for Meta's file, ``stored`` for a model
            of the store.
        lineage: What was trained before, first stage first, for the manifest.
        settings: Tables of the run's config by which the adapters in the model were made.
        conventions: Those whose mask token was trained; none of Meta's file.
    """

    architecture: SamConfig
    model: PromptableSam
    stage: str
    lineage: tuple[dict[str, Any], ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    conventions: Collection[str] = CONVENTIONS


def load_base(path: Path, input_size: int | None = None) -> Base:
    """Load a checkpoint of ours, the best one of a run's folder, Meta's file or a stored model.

    Args:
        path: The file or folder.
        input_size: Side of the input to interpolate position tables to; None keeps the file's.

    Raises:
        CheckpointError: The file is not there or not usable.
        ArtifactError: The folder holds a stored model that is refused.
    """
    if (path / MANIFEST_FILE).is_file():
        return _resized(_load_stored(path), input_size)
    file = path / BEST if path.is_dir() else path
    if not file.exists():
        raise CheckpointError(f"{file} does not exist")
    if is_meta_checkpoint(file):
        try:
            architecture, model = load_meta_checkpoint(file, input_size)
        except ValueError as error:
            raise CheckpointError(str(error)) from error
        lineage = ({"stage": "meta", "file": file.name},)
        return Base(architecture, model, "meta", lineage, conventions=())
    state = load_checkpoint(file)
    architecture, model = model_from_checkpoint(state)
    stage, settings = str(state["stage"]), adapter_settings(state)
    return _resized(Base(architecture, model, stage, lineage_of(state), settings), input_size)


def _load_stored(folder: Path) -> Base:
    """Load a stored model whose weights are floats, to train it further."""
    model, manifest = load_model(folder)
    if "int8" in manifest.quantization.layers.values():
        twin = f"; its float twin {manifest.float_twin} can" if manifest.float_twin else ""
        raise CheckpointError(f"{folder} holds integers, which cannot be trained further{twin}")
    own = {"stage": "stored", "model": f"{manifest.name}/{manifest.version}"}
    lineage = (*manifest.training.get("stages", ()), own)
    architecture = SamConfig.from_dict(manifest.architecture)
    model = model.train().requires_grad_(True)
    return Base(architecture, model, "stored", lineage, conventions=tuple(manifest.conventions))


def _resized(base: Base, input_size: int | None) -> Base:
    if input_size is None or input_size == base.architecture.input_size:
        return base
    if find_layers(base.model, AdaptedLinear):
        raise CheckpointError("the input size can change before stage 1 only")
    wanted = dataclasses.replace(base.architecture, input_size=input_size)
    model = resized_model(base.architecture, base.model, wanted)
    return dataclasses.replace(base, architecture=wanted, model=model)


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
    structure = config["data"].get("structure", "lungs")
    if config["data"].get("leave_out"):
        own["leave_out"] = list(config["data"]["leave_out"])
    if config["data"].get("without_fold", -1) >= 0:
        own["without_fold"] = f"{config['data']['without_fold']} of {config['data']['folds']}"
    if structure != "lungs":
        own["structure"] = structure
    teacher = config.get("teacher", {})  # settings older than teachers have none
    if teacher.get("models"):
        own["teachers"] = [_shown_name(Path(name)) for name in teacher["models"]]
        own["teacher_share"] = teacher["share"]
        if teacher.get("held_out"):
            own["teachers_teach"] = "what they never saw"
        elif teacher.get("conventions"):
            own["teachers_teach"] = list(teacher["conventions"])
    if state["stage"] == "stage1":
        own["method"] = adapter_settings(state)["adaptation"].method
    if "ranks" in state["stage_state"]:
        own["ranks"] = state["stage_state"]["ranks"]
        own["initial_rank"] = config["adalora"]["initial_rank"]
    if state["stage_state"].get("sensitivity"):
        own["sensitivity"] = state["stage_state"]["sensitivity"]
    return (*state.get("lineage", ()), own)


def _shown_name(teacher: Path) -> str:
    """Return a run's name; with its folder where that alone is a version or a file."""
    says_little = teacher.name.isdecimal() or teacher.suffix == ".pt"
    return "/".join(teacher.parts[-2:]) if says_little else teacher.name
