"""The interface of every row of the benchmark: encode an image, and predict masks of X-rays."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model_store.architecture import SamConfig
from model_store.artifact import read_manifest
from model_store.boxes import Box
from model_store.conventions import DEFAULT_CONVENTION, token_of
from model_store.geometry import InputGeometry, window_to_uint8
from model_store.mask_resampling import logits_above

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]


class PeerUnavailableError(RuntimeError):
    """A row cannot be measured here; the message is the reason, for the table."""


@dataclass(frozen=True)
class PeerJob:
    """The job of a row's process.

    Attributes:
        label: Name of the row.
        int8_folder: Stored model in INT8.
        float_folder: Its twin before quantization.
        exported: Folder for exported graphs, shared by the rows of one cell.
        images: ``.npy`` file with grey X-rays, uint8 (B, H, W).
        box: Prompt box in pixels of the X-rays.
        at_once: Images that one encoder pass may hold, at most B.
        threads: Threads that the row may use.
    """

    label: str
    int8_folder: Path
    float_folder: Path
    exported: Path
    images: Path
    box: Box
    at_once: int
    threads: int

    def config(self) -> SamConfig:
        """Return the architecture of both stored models."""
        return SamConfig.from_dict(read_manifest(self.float_folder).architecture)


class Peer(Protocol):
    """One way to execute the model."""

    def encode_images(self, normalized: Tensor) -> None:
        """Encode normalised images (B, C, S, S) and drop the embeddings."""

    def predict_masks(self, images: Sequence[Image], box: Box) -> list[Mask]:
        """Predict one mask (H, W) for each X-ray (H, W)."""


class ComposedPeer(ABC):
    """A peer with its own encoder and decoder, and the project's geometry and thresholds."""

    def __init__(self, config: SamConfig, at_once: int) -> None:
        """Execute a model of these sizes with ``at_once`` images in one encoder pass."""
        self._config, self._at_once = config, at_once

    @abstractmethod
    def encode(self, normalized: Tensor) -> Tensor:
        """Encode normalised images (B, C, S, S) into float32 embeddings (B, D, G, G)."""

    @abstractmethod
    def decode(self, embedding: Tensor, box: Tensor) -> Tensor:
        """Decode a box (1, 4) on an embedding (1, D, G, G) to float32 logits (1, T, 4G, 4G)."""

    def encode_images(self, normalized: Tensor) -> None:
        """Encode normalised images (B, C, S, S) and drop the embeddings."""
        with torch.inference_mode():
            for part in torch.split(normalized, self._at_once):
                self.encode(part)

    def predict_masks(self, images: Sequence[Image], box: Box) -> list[Mask]:
        """Predict one mask (H, W) for each X-ray (H, W)."""
        masks: list[Mask] = []
        with torch.inference_mode():
            for part in torch.split(normalized_inputs(images, self._config), self._at_once):
                embeddings = self.encode(part)
                for embedding in torch.split(embeddings, 1):
                    masks.append(self._mask(embedding, box, images[len(masks)]))
        return masks

    def _mask(self, embedding: Tensor, box: Box, image: Image) -> Mask:
        geometry = geometry_of(image, self._config.input_size)
        logits = self.decode(embedding, torch.tensor([geometry.box_to_input(box)]))
        return logits_above(logits[0, token_of(DEFAULT_CONVENTION)].numpy(), geometry, 0.0)


def geometry_of(image: Image, input_size: int) -> InputGeometry:
    """Return the geometry of an X-ray (H, W) in a square input."""
    return InputGeometry(image.shape[1], image.shape[0], input_size)


def normalized_inputs(images: Sequence[Image], config: SamConfig) -> Tensor:
    """Return X-rays (H, W) as the encoder's input, float32 (B, C, S, S)."""
    mean = torch.tensor(config.pixel_mean).view(1, -1, 1, 1)
    std = torch.tensor(config.pixel_std).view(1, -1, 1, 1)
    levels = ((torch.arange(256) - mean) / std).view(-1, 256).numpy()
    inputs = []
    for image in images:
        geometry = geometry_of(image, config.input_size)
        pixels = geometry.image_to_input(window_to_uint8(image))
        inputs.append(torch.from_numpy(geometry.look_up(pixels, levels)))
    return torch.stack(inputs)
