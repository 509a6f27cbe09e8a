"""Read ``best_model_stage2_int8.pth``: rename entries, fold adapters, round weights as at run time.

The file is a dict whose ``model_state_dict`` holds a ``SamModel`` under ``sam.``. Each vision
layer's ``attn.qkv`` is wrapped: the frozen layer is ``attn.qkv.qkv``, and each of q, k and v has
``P (D, R)``, ``Lambda (R)``, ``Q (R, D)`` and a boolean ``mask (R)``; added to the weight is
``P diag(Lambda * mask) Q``, times ``alpha / target_rank``. All other linear layers of vision
encoder and mask decoder were Brevitas ``QuantLinear``: float in the file, and rounded to 8 bits
with one scale per tensor at run time. The model built here computes the same.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from model_store.architecture import SamConfig, build_sam
from model_store.meta_checkpoint import variant_of
from model_store.sam import PromptableSam
from training.errors import CheckpointError
from training.reference.names import POSITION_COPY, hugging_face_name

ALPHA = 32.0
TARGET_RANK = 32

_SAM = "sam."
_POSITION_TABLE = "sam.vision_encoder.pos_embed"
_COPIES = "adalora_modules."
_SLICES = ("q", "k", "v")
_UNUSED = ("importance_q", "importance_k", "importance_v", "importance_ema", "qat_mode")
_QKV = ".attn.qkv"
_WEIGHT_STEPS = 127  # Brevitas' narrow range of 8 bits
_SMALLEST_LARGEST = 1e-10


@dataclass(frozen=True)
class ReferenceModel:
    """The reference's model in ours."""

    architecture: SamConfig
    model: PromptableSam
    facts: dict[str, Any]  # facts about its training in the file, for the manifest


def load_reference(
    path: Path, alpha: float = ALPHA, target_rank: int = TARGET_RANK
) -> ReferenceModel:
    """Read a stage 2 file of the reference.

    Args:
        path: The file.
        alpha: ``lora_alpha`` of its training, which is not in the file.
        target_rank: ``target_rank`` of its training, likewise.

    Raises:
        CheckpointError: The file cannot be read as tensors, or an entry is unknown, missing or
            misshapen.
    """
    content = _read(path)
    entries = _Entries(path, content["model_state_dict"])
    table = entries.take(_POSITION_TABLE)
    try:
        architecture = variant_of(path, table)
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    model = build_sam(architecture)
    state = {
        name: entries.take(_file_name(name), wanted.shape)
        for name, wanted in model.state_dict().items()
    }
    _round_weights(model, state)
    kept = _fold_adapters(entries, state, architecture, alpha / target_rank)
    entries.drop_copies(architecture.depth)
    entries.refuse_the_rest()
    model.load_state_dict(state)
    facts = {
        "stage": "imported",
        "file": path.name,
        "epoch": content.get("epoch"),
        "val_dice": content.get("val_dice"),
        "alpha": alpha,
        "target_rank": target_rank,
        "triplets_kept": kept,
    }
    return ReferenceModel(architecture, model.eval(), facts)


def _read(path: Path) -> Mapping[str, Any]:
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as tensors: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("model_state_dict"), dict):
        raise CheckpointError(f"{path} holds no model_state_dict; it is not the reference's file")
    return content


def _file_name(name: str) -> str:
    """Return the name in the file of an entry of our model."""
    renamed = _SAM + hugging_face_name(name)
    head, separator, tail = renamed.partition(f"{_QKV}.")
    return f"{head}{_QKV}.qkv.{tail}" if separator else renamed


class _Entries:
    """The entries of the file; each is taken once, so that remaining entries are unknown."""

    def __init__(self, path: Path, state: Mapping[str, Any]) -> None:
        self._path = path
        self._state = state
        self._taken: set[str] = set()

    def take(self, name: str, shape: torch.Size | None = None) -> Tensor:
        """Return an entry, floats in float32; refuse if missing, misshapen or not finite."""
        if name not in self._state:
            raise CheckpointError(f"{self._path} lacks the entry {name!r}")
        tensor = self._state[name]
        if not isinstance(tensor, Tensor):
            raise CheckpointError(f"{self._path}: {name} is no tensor")
        if shape is not None and tensor.shape != shape:
            raise CheckpointError(
                f"{self._path}: {name} has shape {tuple(tensor.shape)}, not {tuple(shape)}"
            )
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{self._path}: {name} holds numbers that are not finite")
        self._taken.add(name)
        return tensor.float() if tensor.is_floating_point() else tensor

    def drop_copies(self, depth: int) -> None:
        """Drop the second entries of shared parameters, which must equal the first."""
        originals = {_SAM + POSITION_COPY: _SAM + hugging_face_name(
            "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix")}  # fmt: skip
        for name in self._state:
            index, _, rest = name.removeprefix(_COPIES).partition(".")
            if name.startswith(_COPIES) and index.isdecimal() and int(index) < depth:
                originals[name] = f"{_SAM}vision_encoder.layers.{index}{_QKV}.{rest}"
        for name, original in originals.items():
            if name not in self._state or original not in self._taken:
                continue
            if not torch.equal(self.take(name), self.take(original)):
                raise CheckpointError(f"{self._path}: {name} differs from {original}")

    def refuse_the_rest(self) -> None:
        """Refuse entries that were not taken."""
        unknown = sorted(set(self._state) - self._taken)
        if unknown:
            raise CheckpointError(
                f"{self._path} has unknown entries: {', '.join(unknown[:5])}"
                + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else "")
            )


def _round_weights(model: PromptableSam, state: dict[str, Tensor]) -> None:
    """Round the weights of former ``QuantLinear`` layers as at run time."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and not name.endswith(_QKV):
            weight = state[f"{name}.weight"]
            scale = weight.abs().max().clamp(min=_SMALLEST_LARGEST) / _WEIGHT_STEPS
            state[f"{name}.weight"] = torch.round(weight / scale) * scale


def _fold_adapters(
    entries: _Entries, state: dict[str, Tensor], architecture: SamConfig, scaling: float
) -> int:
    """Add the adapters to the q, k and v rows of every layer; return the kept triplets."""
    width, kept = architecture.embed_dim, 0
    for index in range(architecture.depth):
        prefix = f"{_SAM}vision_encoder.layers.{index}{_QKV}."
        name = f"image_encoder.blocks.{index}.attn.qkv.weight"
        rows = list(torch.split(state[name], width))
        for place, part in enumerate(_SLICES):
            singular = entries.take(f"{prefix}Lambda_{part}")
            rank = singular.shape[-1]
            left = entries.take(f"{prefix}P_{part}", torch.Size((width, rank)))
            right = entries.take(f"{prefix}Q_{part}", torch.Size((rank, width)))
            mask = entries.take(f"{prefix}mask_{part}", singular.shape).bool()
            rows[place] = rows[place] + scaling * (left * (singular * mask)) @ right
            kept += int(mask.sum())
        state[name] = torch.cat(rows)
        for unused in _UNUSED:
            entries.take(prefix + unused)
    return kept
