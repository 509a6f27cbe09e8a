"""AdaLoRA's adapters as a folder that ``peft`` loads: ``PeftModel.from_pretrained(base, folder)``.

``peft`` has one set of triplets a layer, ours one for each of q, k and v. So Q of the slices are
stacked, and P of each slice gets its own rows and columns, which gives the same product. All layers
get the largest rank, padded with 0. ``peft`` multiplies by alpha, here 1, and divides by its rank
plus 1e-5; lambda compensates both. Mask decoder and prompt encoder, which are trained in full, are
its ``modules_to_save``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from model_store.sam import PromptableSam
from training.adapters.adalora import AdaLoraLinear
from training.adapters.adapted_model import find_layers
from training.errors import ConfigError

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"

TRAINED_IN_FULL = ("mask_decoder", "prompt_encoder")
"""Modules that stage 1 trains beside the adapters."""

_PREFIX = "base_model.model."
_RANK_OFFSET = 1e-5
"""Number that ``peft`` adds to the rank before the division."""


def write_peft_folder(model: PromptableSam, folder: Path) -> int:
    """Write the adapters of a stage 1 model; return the rank of every layer in the folder.

    Args:
        model: The model with its adapters.
        folder: Folder to write; created if missing.

    Raises:
        ConfigError: The model has no AdaLoRA adapters, or the folder already has an adapter.
    """
    layers = find_layers(model, AdaLoraLinear)
    if not layers:
        raise ConfigError("the model has no AdaLoRA adapters, which stage1 makes by default")
    if (folder / CONFIG_FILE).exists():
        raise ConfigError(f"{folder} holds an adapter already; choose another folder")
    rank = max(layer.singular.numel() for layer in layers.values())
    tensors: dict[str, Tensor] = {}
    for name, layer in layers.items():
        for factor, value in _triplets(layer, rank).items():
            tensors[f"{_PREFIX}{name}.{factor}"] = value
    for part in TRAINED_IN_FULL:
        for name, value in model.get_submodule(part).state_dict().items():
            tensors[f"{_PREFIX}{part}.{name}"] = value.detach().cpu().contiguous().clone()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / WEIGHTS_FILE)
    (folder / WEIGHTS_FILE).chmod(0o644)
    config = json.dumps(_config(list(layers), rank), indent=2) + "\n"
    (folder / CONFIG_FILE).write_text(config, encoding="utf-8")
    return rank


@torch.no_grad()
def _triplets(layer: AdaLoraLinear, rank: int) -> dict[str, Tensor]:
    """Return ``lora_A`` (R, D_in), ``lora_E`` (R, 1) and ``lora_B`` (O, R) of one layer."""
    own = layer.singular.shape[1]
    first = layer.Q.new_zeros(rank, layer.base.in_features)
    values = layer.Q.new_zeros(rank, 1)
    last = layer.Q.new_zeros(layer.base.out_features, rank)
    kept = layer.singular * layer.mask * layer.scaling * (rank + _RANK_OFFSET)
    for place, start in enumerate(layer.first_rows()):
        columns = slice(place * own, (place + 1) * own)
        first[columns] = layer.Q[place]
        values[columns, 0] = kept[place]
        last[start : start + layer.P.shape[1], columns] = layer.P[place]
    named = {"lora_A": first, "lora_E": values, "lora_B": last}
    return {name: value.cpu().contiguous() for name, value in named.items()}


def _config(names: list[str], rank: int) -> dict[str, Any]:
    """Return ``peft``'s configuration, after the end of its schedule."""
    return {
        "peft_type": "ADALORA",
        "base_model_name_or_path": None,
        "inference_mode": True,
        "init_r": rank,
        "target_r": rank,
        "lora_alpha": 1,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": names,
        "modules_to_save": list(TRAINED_IN_FULL),
        "tinit": 0,
        "tfinal": 0,
        "deltaT": 1,
        "total_step": 1,
    }
