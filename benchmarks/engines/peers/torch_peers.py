"""Rows that run in PyTorch: the library's own SAM in FP32 and BF16, and this project's engine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.engines.peers.peer import (
    ComposedPeer,
    Image,
    Mask,
    Peer,
    PeerJob,
    PeerUnavailableError,
)
from model_store.artifact import load_model
from model_store.boxes import Box
from model_store.engine.widened_attention import widen_attention
from model_store.predictor import PredictionRequest, Predictor


class LibraryPeer(ComposedPeer):
    """``segment_anything``'s modules as the library wrote them."""

    def __init__(self, job: PeerJob) -> None:
        """Load the float model; nothing in it is replaced."""
        super().__init__(job.config(), job.at_once)
        self._model, _ = load_model(job.float_folder)

    def encode(self, normalized: Tensor) -> Tensor:
        """Encode normalised images (B, C, S, S) into embeddings (B, D, G, G)."""
        return self._model.encode_image(normalized)

    def decode(self, embedding: Tensor, box: Tensor) -> Tensor:
        """Decode a box (1, 4) on an embedding (1, D, G, G) to logits (1, T, 4G, 4G)."""
        first = torch.zeros(1, dtype=torch.int64)
        return self._model.decode_masks(embedding, box, first)[0]


class Bfloat16Peer(LibraryPeer):
    """The encoder in BF16 with fused attention; the decoder stays FP32."""

    def __init__(self, job: PeerJob) -> None:
        """Load the float model and convert its encoder.

        Raises:
            PeerUnavailableError: The processor has no BF16 products, and emulation is slower than
                FP32.
        """
        if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            raise PeerUnavailableError("oneDNN finds no BF16 here (wants AVX512-BF16 or AMX)")
        super().__init__(job)
        widen_attention(self._model.image_encoder)
        self._model.image_encoder.bfloat16()

    def encode(self, normalized: Tensor) -> Tensor:
        """Encode normalised images (B, C, S, S) into float32 embeddings (B, D, G, G)."""
        return super().encode(normalized.bfloat16()).float()


class OwnPeer:
    """This project's engine, used like in the service."""

    def __init__(self, folder: Path) -> None:
        """Load a stored model with the engine that the service would choose."""
        self._predictor = Predictor.load(folder, "cpu")
        self.engine_name = self._predictor.engine.name

    def encode_images(self, normalized: Tensor) -> None:
        """Encode images (B, C, S, S), in batches only where the service does so."""
        engine = self._predictor.engine
        at_once = normalized.shape[0] if engine.batches_alike else 1
        with torch.inference_mode():
            for part in torch.split(normalized, at_once):
                engine.encode_image(part)

    def predict_masks(self, images: Sequence[Image], box: Box) -> list[Mask]:
        """Take X-rays (H, W) to one mask (H, W) each."""
        answers = self._predictor.predict_batch([PredictionRequest(i, (box,)) for i in images])
        return [answer.masks[0].mask for answer in answers]


def own_int8(job: PeerJob) -> Peer:
    """Return this project's engine with the INT8 model."""
    return OwnPeer(job.int8_folder)


def own_fp32(job: PeerJob) -> Peer:
    """Return this project's engine with the float model."""
    return OwnPeer(job.float_folder)
