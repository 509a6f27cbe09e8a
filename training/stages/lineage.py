"""The lineage of a checkpoint: the settings of its adapters and its earlier stages."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model_store.weight_levels import EIGHT_BIT_LEVELS
from training.adapters.config import AdaLoraConfig, AdaptationConfig, LoraConfig
from training.quantization.config import QatConfig
from training.quantization.fake_quantization import EXECUTED_BITS
from training.settings import build_settings


def adapter_settings(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a checkpoint's adapters, by table.

    They are empty before stage 1. Older checkpoints without a method are AdaLoRA's.
    """
    if state["stage"] == "pretrain":
        return {}
    tables = {"adaptation": AdaptationConfig, "adalora": AdaLoraConfig, "lora": LoraConfig}
    config = state["config"]
    return {name: build_settings(kind, config.get(name, {}), name) for name, kind in tables.items()}


def qat_settings(state: Mapping[str, Any]) -> QatConfig:
    """Return the quantization settings of a stage 2 checkpoint.

    Older checkpoints name their float layers among them.
    """
    known = {field.name for field in dataclasses.fields(QatConfig)}
    values = {k: v for k, v in state["config"].get("qat", {}).items() if k in known}
    settings: QatConfig = build_settings(QatConfig, values, "qat")
    return settings


def lineage_of(state: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    """Return the stages of a checkpoint, itself last."""
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
    if state["stage"] == "stage2" and qat_settings(state).weight_levels != EIGHT_BIT_LEVELS:
        own["weight_levels"] = qat_settings(state).weight_levels
    if state["stage"] == "stage2" and qat_settings(state).activation_bits != EXECUTED_BITS:
        own["activation_bits"] = qat_settings(state).activation_bits
    if state["stage"] == "stage1":
        own["method"] = adapter_settings(state)["adaptation"].method
    if "ranks" in state["stage_state"]:
        own["ranks"] = state["stage_state"]["ranks"]
        own["initial_rank"] = config["adalora"]["initial_rank"]
    if state["stage_state"].get("sensitivity"):
        own["sensitivity"] = state["stage_state"]["sensitivity"]
    if state.get("provenance"):
        own["provenance"] = _without_folders(state["provenance"])
        own["settings"] = _without_folders(config)
    return (*state.get("lineage", ()), own)


def _without_folders(value: Any) -> Any:
    """Return settings for a stored model: names of files, without their folders."""
    if isinstance(value, Mapping):
        return {name: _without_folders(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_folders(one) for one in value]
    if not isinstance(value, str):
        return value
    return " ".join("=".join(map(_last_name, word.split("="))) for word in value.split(" "))


def _last_name(text: str) -> str:
    plain = text.strip("'\"")
    return _shown_name(Path(plain)) if plain.startswith(("/", "~")) else text


def _shown_name(teacher: Path) -> str:
    """Return a run's name, with its folder if the name alone is a version or a file."""
    says_little = teacher.name.isdecimal() or teacher.suffix == ".pt"
    return "/".join(teacher.parts[-2:]) if says_little else teacher.name
