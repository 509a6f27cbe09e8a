"""Meta's SAM checkpoint files: recognized by their keys, read safely, resized to another input."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from model_store.architecture import (
    SAM_BOX_SHIFT_PX,
    VARIANTS,
    SamConfig,
    build_sam,
    sam_config,
)
from model_store.sam import PromptableSam

_POSITION_KEY = "image_encoder.pos_embed"


def is_meta_checkpoint(path: Path) -> bool:
    """Tell whether a file is a bare state dict with SAM's keys."""
    try:
        state = _read(path)
    except ValueError:
        return False
    return _POSITION_KEY in state


def load_meta_checkpoint(
    path: Path, input_size: int | None = None
) -> tuple[SamConfig, PromptableSam]:
    """Load ``sam_vit_{b,l,h}_*.pth`` by key.

    Args:
        path: The file.
        input_size: Side of the input in pixels; position tables are interpolated when it is not
            the file's own (1024). None keeps the file's.

    Raises:
        ValueError: The file cannot be read, or its shapes fit no known variant.
    """
    state = _read(path)
    if _POSITION_KEY not in state:
        raise ValueError(f"{path} has no {_POSITION_KEY}; it is not a SAM checkpoint")
    architecture = variant_of(path, state[_POSITION_KEY])
    if input_size is not None:
        architecture = dataclasses.replace(architecture, input_size=input_size)
    model = build_sam(architecture)
    resized = resize_position_tables(state, model.state_dict())
    try:
        model.load_state_dict(resized)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit {architecture.variant}: {error}") from error
    return architecture, model


def resize_position_tables(
    state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Interpolate absolute and relative position tables to the shapes of another input size.

    Args:
        state: Tensors by name.
        wanted: Tensors of the model that the result must fit; only shapes are read.

    Returns:
        ``state`` with position tables of the wanted shapes.
    """
    resized = dict(state)
    for name, target in wanted.items():
        table = state.get(name)
        if table is None or table.shape == target.shape:
            continue
        if name.endswith("pos_embed"):  # (1, G, G, D)
            moved = functional.interpolate(
                table.permute(0, 3, 1, 2), size=target.shape[1:3], mode="bicubic",
                align_corners=False,
            )  # fmt: skip
            resized[name] = moved.permute(0, 2, 3, 1)
        elif "rel_pos" in name:  # (2G - 1, head)
            moved = functional.interpolate(
                table.T.unsqueeze(0), size=target.shape[0], mode="linear", align_corners=False
            )
            resized[name] = moved[0].T
    return resized


def _read(path: Path) -> dict[str, Tensor]:
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as tensors: {error}") from error
    if not isinstance(state, dict):
        raise ValueError(f"{path} holds no state dict")
    return state


def variant_of(path: Path, position_table: Tensor) -> SamConfig:
    """Return the named variant whose position table has this shape, with SAM's own shift of boxes.

    Args:
        path: The file, for the message.
        position_table: Position table of the image encoder, (1, G, G, D).

    Raises:
        ValueError: No variant has this shape.
    """
    grid, width = position_table.shape[1], position_table.shape[3]
    for name in VARIANTS:
        config = sam_config(name)
        if config.embed_dim == width and config.grid_size == grid:
            return dataclasses.replace(config, box_shift_px=SAM_BOX_SHIFT_PX)
    raise ValueError(f"{path}: a width of {width} on a {grid} x {grid} grid is not a known variant")
