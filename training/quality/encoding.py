"""Embeddings of a frozen model, the input of the quality head.

A stored model is executed as in the service, integers included. So its head is fitted to the
numbers that it gets in service.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model_store.artifact import MANIFEST_FILE
from model_store.predictor import Predictor, choose_device
from model_store.sam import PromptableSam
from training.stages.base import load_base

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class FrozenEncoder:
    """Encodes pictures of a model's input size.

    Attributes:
        model: The network, for its grey values.
        encode: Function from normalised pictures (B, C, S, S) to embeddings (B, D, G, G).
        input_size: Side S of the input, in pixels.
        together: Whether several pictures may share a call.
    """

    model: PromptableSam
    encode: Callable[[Tensor], Tensor]
    input_size: int
    together: bool

    def embeddings(self, pixels: NDArray[np.uint8], valid: NDArray[np.uint8]) -> list[Floats]:
        """Return the embeddings (D, G, G) of pictures, each (B, S, S)."""
        device = self.model.pixel_mean.device
        planes = (torch.from_numpy(plane)[:, None].to(device) for plane in (pixels, valid))
        with torch.inference_mode():
            normalized = self.model.normalize(*planes)
            parts = [normalized] if self.together else list(normalized[:, None])
            # Copies, because an engine may reuse the buffer for the next picture's embedding.
            found = [one.float().cpu().numpy().copy() for one in map(self.encode, parts)]
        return [embedding for part in found for embedding in part]


def load_encoder(path: Path, device: str = "auto") -> FrozenEncoder:
    """Load the encoder of a run, a checkpoint or a stored model.

    Raises:
        ArtifactError: The stored model is refused.
        CheckpointError: The run cannot be read.
        ValueError: The device is unknown or absent.
    """
    if (path / MANIFEST_FILE).is_file():
        predictor = Predictor.load(path, device)
        engine = predictor.engine
        size = predictor.info.input_size
        return FrozenEncoder(predictor.model, engine.encode_image, size, engine.batches_alike)
    base = load_base(path)
    model = base.model.to(choose_device(device)).eval().requires_grad_(False)
    return FrozenEncoder(model, model.encode_image, base.architecture.input_size, True)
