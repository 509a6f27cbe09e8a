"""The base of a stage: a checkpoint, a run, a stored model or Meta's file.

A checkpoint has its stage and its settings; `model_from_checkpoint` builds the same structure with
the same weights, so that each stage can start from the previous one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model_store.architecture import SamConfig, build_sam
from model_store.artifact import MANIFEST_FILE, load_model
from model_store.conventions import CONVENTIONS
from model_store.meta_checkpoint import is_meta_checkpoint, load_meta_checkpoint
from model_store.sam import PromptableSam
from model_store.weight_levels import EIGHT_BIT_LEVELS
from training.adapters.adapted_linear import AdaptedLinear
from training.adapters.adapted_model import add_adapters, add_lora, find_layers
from training.checkpoint import BEST, load_checkpoint
from training.errors import CheckpointError
from training.quantization.quantized_model import (
    add_fake_quantization,
    add_few_level_quantization,
)
from training.quantization.sensitivity.choice import stored_choice
from training.stages.lineage import adapter_settings, lineage_of, qat_settings
from training.stages.resizing import resized_model


def model_from_checkpoint(state: Mapping[str, Any]) -> tuple[SamConfig, PromptableSam]:
    """Build the model of a checkpoint, with its adapters and fake quantization."""
    architecture = SamConfig.from_dict(state["architecture"])
    model = build_sam(architecture)
    stage, settings = state["stage"], adapter_settings(state)
    if settings and settings["adaptation"].method == "adalora":
        for adapter in add_adapters(model, settings["adalora"]).values():
            adapter.frozen_mask = True
    if settings and settings["adaptation"].method == "lora":
        add_lora(model, settings["lora"])
    if stage == "stage2":
        qat = qat_settings(state)
        if qat.weight_levels == EIGHT_BIT_LEVELS:
            add_fake_quantization(model, stored_choice(state), qat.activation_bits)
        else:
            add_few_level_quantization(model, qat, stored_choice(state))
    model.load_state_dict(state["model"])
    return architecture, model


@dataclass(frozen=True)
class Base:
    """The base of a stage.

    Attributes:
        architecture: Sizes of the model.
        model: The model, with its adapters and fake quantization.
        stage: Name of the stage that made it; ``meta`` for Meta's file, ``stored`` for a model
            of the store.
        lineage: Earlier stages, the first one first, for the manifest.
        settings: Tables of the run's config for the model's adapters.
        conventions: Conventions whose mask token was trained; none for Meta's file.
        trained_on: Source, convention, licence and name of every recorded training X-ray.
        counted_before: Source, convention, licence and number of those recorded without names.
    """

    architecture: SamConfig
    model: PromptableSam
    stage: str
    lineage: tuple[dict[str, Any], ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    conventions: Collection[str] = CONVENTIONS
    trained_on: Sequence[Sequence[str]] = ()
    counted_before: Sequence[Sequence[Any]] = ()


def load_base(path: Path, input_size: int | None = None) -> Base:
    """Load a checkpoint, the best one of a run's folder, Meta's file or a stored model.

    Args:
        path: The file or folder.
        input_size: Side of the input to interpolate position tables to; None keeps the file's.

    Raises:
        CheckpointError: The file is missing or not usable.
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
    base = Base(
        architecture, model, stage, lineage_of(state), settings,
        trained_on=state.get("trained_on", ()), counted_before=state.get("counted_before", ()),
    )  # fmt: skip
    return _resized(base, input_size)


def _load_stored(folder: Path) -> Base:
    """Load a stored float model, to train it further."""
    model, manifest = load_model(folder)
    if "int8" in manifest.quantization.layers.values():
        twin = f"; its float twin {manifest.float_twin} can" if manifest.float_twin else ""
        raise CheckpointError(f"{folder} holds integers, which cannot be trained further{twin}")
    own = {"stage": "stored", "model": f"{manifest.name}/{manifest.version}"}
    lineage = (*manifest.training.get("stages", ()), own)
    architecture = SamConfig.from_dict(manifest.architecture)
    model = model.train().requires_grad_(True)
    counted = [(d.source, d.convention, d.license, d.images) for d in manifest.training_data]
    return Base(
        architecture, model, "stored", lineage, conventions=tuple(manifest.conventions),
        counted_before=counted,
    )  # fmt: skip


def _resized(base: Base, input_size: int | None) -> Base:
    if input_size is None or input_size == base.architecture.input_size:
        return base
    if find_layers(base.model, AdaptedLinear):
        raise CheckpointError("the input size can change before stage 1 only")
    wanted = dataclasses.replace(base.architecture, input_size=input_size)
    model = resized_model(base.architecture, base.model, wanted)
    return dataclasses.replace(base, architecture=wanted, model=model)
