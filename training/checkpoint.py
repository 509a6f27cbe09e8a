"""Checkpoints that survive a kill, a full disk and a failing disk.

A checkpoint is written beside the old one, synced, then renamed into place. Its sha256 follows the
stored bytes in the same file. With a separate checksum file, a kill between the two renames could
leave the checksum beside the wrong checkpoint.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
from collections.abc import Mapping
from io import BufferedWriter
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from training.errors import CheckpointError

LATEST = "latest.pt"
PREVIOUS = "previous.pt"
BEST = "best.pt"

_TRAILER_MARK = b"\nsha256:"
_TRAILER_SIZE = len(_TRAILER_MARK) + 64
_READ_SIZE = 1 << 20


class LatestCheckpoint(NamedTuple):
    """The result of `load_latest`.

    Attributes:
        path: The file that it was read from.
        refused: Why newer files were skipped, one sentence each.
    """

    state: dict[str, Any]
    path: Path
    refused: tuple[str, ...]


class _HashingFile:
    """A write-only file that hashes its bytes."""

    def __init__(self, file: BufferedWriter) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        """Write and hash; keep an error, because torch replaces it by its own."""
        try:
            written = self._file.write(data)
        except OSError as error:
            self.error = error
            raise
        self.sha256.update(data)
        return written

    def flush(self) -> None:
        """Flush buffers to the system."""
        self._file.flush()


def save_checkpoint(folder: Path, name: str, state: dict[str, Any]) -> None:
    """Write a checkpoint atomically: a reader finds the old file or the new one.

    The previous checkpoint stays as ``previous.pt``.

    Raises:
        CheckpointError: It could not be written, as on a full disk; the existing files are
            unchanged.
    """
    target, partial = folder / name, folder / f"{name}.partial"
    try:
        _write_hashed(partial, state)
    except OSError as error:
        partial.unlink(missing_ok=True)
        free_mb = shutil.disk_usage(folder).free / 1e6
        raise CheckpointError(
            f"{target} cannot be written: {error.strerror} ({free_mb:.1f} MB free)"
        ) from error
    if name == LATEST and target.exists():
        os.replace(target, folder / PREVIOUS)
    os.replace(partial, target)
    _sync_folder(folder)


def _write_hashed(path: Path, state: dict[str, Any]) -> None:
    with path.open("wb") as file:
        hashing = _HashingFile(file)
        try:
            torch.save(state, hashing)  # type: ignore[arg-type]  # write and flush are enough
        except RuntimeError as error:
            raise hashing.error or error from error
        file.write(_TRAILER_MARK + hashing.sha256.hexdigest().encode())
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Sync the rename to disk, so that it survives a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of this project, with tensors and plain types only.

    Raises:
        CheckpointError: Missing, damaged, or holding anything but tensors and plain types.
    """
    try:
        _verify(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise CheckpointError(f"{path} is damaged or not a checkpoint: {error}") from error
    if not isinstance(state, dict) or "model" not in state:
        raise CheckpointError(f"{path} is not a checkpoint of this project")
    return state


def _verify(path: Path) -> None:
    """Compare a file with the sha256 at its end; torch validates files without one."""
    size = path.stat().st_size - _TRAILER_SIZE
    if size <= 0:
        return
    digest = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(size)
        trailer = file.read()
        if not trailer.startswith(_TRAILER_MARK):
            return
        file.seek(0)
        while size > 0:
            data = file.read(min(size, _READ_SIZE))
            digest.update(data)
            size -= len(data)
    if trailer != _TRAILER_MARK + digest.hexdigest().encode():
        raise CheckpointError(f"{path} is damaged: its bytes do not have the sha256 at its end")


def load_latest(folder: Path) -> LatestCheckpoint | None:
    """Return the newest readable checkpoint of a run, or None when it has none.

    Raises:
        CheckpointError: No checkpoint of several can be read.
    """
    refused: list[str] = []
    for path in (folder / LATEST, folder / PREVIOUS):
        if not path.exists():
            continue
        try:
            return LatestCheckpoint(load_checkpoint(path), path, tuple(refused))
        except CheckpointError as error:
            refused.append(str(error))
    if refused:
        raise CheckpointError("; ".join(refused))
    return None


def holds_run(folder: Path) -> bool:
    """Return whether a folder has a checkpoint to resume from, readable or not."""
    return any((folder / name).exists() for name in (LATEST, PREVIOUS))


def weights_sha256(weights: Mapping[str, Tensor]) -> str:
    """Return one hash of names, types, shapes and bytes of all weights, in order of name."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
