"""This machine's highest rate of integer products, and the number that a model needs."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from safetensors import safe_open

from model_store.architecture import SamConfig
from model_store.artifact import read_manifest
from model_store.int8_layers import Int8Matrix
from model_store.integers import WEIGHT_LIMIT

SIDE = 2048
"""Side of the square product, large enough to be limited by arithmetic: 17 billion operations."""


class ProductCeiling:
    """One large square product by the operation of the engine's integer layers."""

    def __init__(self) -> None:
        """Pack a random weight (SIDE, SIDE) and make random activations."""
        generator = torch.Generator().manual_seed(0)
        limits = (-WEIGHT_LIMIT, WEIGHT_LIMIT + 1)
        weight = torch.randint(*limits, (SIDE, SIDE), generator=generator, dtype=torch.int8)
        self._matrix = Int8Matrix(weight, torch.ones(SIDE), torch.ones(()), None)
        self._matrix.use_backend("cpu")
        self._values = torch.randint(0, 256, (SIDE, SIDE), generator=generator, dtype=torch.uint8)
        self.measure()

    def measure(self) -> float:
        """Return integer operations a second (a multiplication and an addition count as two)."""
        started = time.perf_counter()
        with torch.inference_mode():
            self._matrix.accumulate(self._values)
        return 2.0 * SIDE**3 / (time.perf_counter() - started)


def encoder_operations(folder: Path) -> float:
    """Return the integer operations of a stored encoder for one image.

    Every integer layer of the encoder uses each patch once: 2 operations for each weight and patch.
    Padding of windows beyond the image does not count.
    """
    manifest = read_manifest(folder)
    weights = 0
    with safe_open(folder / manifest.weights.file, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 - not a mapping
            part = file.get_slice(name)
            if name.startswith("image_encoder.") and part.get_dtype() == "I8":
                rows, columns = part.get_shape()
                weights += rows * columns
    return 2.0 * weights * SamConfig.from_dict(manifest.architecture).grid_size ** 2
