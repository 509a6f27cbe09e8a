"""Checkpoints that survive being killed: written beside, synced, then renamed into place."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch

LATEST = "latest.pt"
PREVIOUS = "previous.pt"
BEST = "best.pt"


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message names the file and the reason."""


def save_checkpoint(folder: Path, name: str, state: dict[str, Any]) -> None:
    """Write a checkpoint; a reader sees the old file or the new one, never a half.

    The latest checkpoint before this one stays as ``previous.pt``.
    """
    target, partial = folder / name, folder / f"{name}.partial"
    with partial.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    if name == LATEST and target.exists():
        os.replace(target, folder / PREVIOUS)
    os.replace(partial, target)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of ours, tensors and plain types only.

    Raises:
        CheckpointError: Missing, damaged, or holding anything but tensors and plain types.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise CheckpointError(f"{path} is damaged or not a checkpoint: {error}") from error
    if not isinstance(state, dict) or "model" not in state:
        raise CheckpointError(f"{path} is not a checkpoint of this project")
    return state


def load_latest(folder: Path) -> tuple[dict[str, Any], Path] | None:
    """Return the newest readable checkpoint of a run and its path, or None when it has none.

    Raises:
        CheckpointError: There are checkpoints, but none can be read.
    """
    candidates = [folder / name for name in (LATEST, PREVIOUS) if (folder / name).exists()]
    failures: list[str] = []
    for path in candidates:
        try:
            return load_checkpoint(path), path
        except CheckpointError as error:
            failures.append(str(error))
    if failures:
        raise CheckpointError("; ".join(failures))
    return None
