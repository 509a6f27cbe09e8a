"""X-rays and boxes in, masks and scores out: the one way in which a stored model is asked.

A `Predictor` holds weights and nothing about its callers. Each image and each box goes through
the network alone: float kernels may add in another order when the batch has another size, and a
patient's mask must not change with its neighbours, not by a pixel.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model_store.artifact import load_model
from model_store.conventions import token_of
from model_store.embedding_cache import EmbeddingCache, content_key
from model_store.geometry import Box, InputGeometry, validate_box, window_to_uint8
from model_store.int8_layers import Backend, Int8Matrix
from model_store.manifest import Manifest
from model_store.prediction import MaskPrediction as MaskPrediction
from model_store.prediction import ModelInfo as ModelInfo
from model_store.prediction import Prediction as Prediction
from model_store.prediction import PredictionRequest as PredictionRequest
from model_store.sam import PromptableSam

STAGES = ("preprocess", "encode_image", "decode_mask", "postprocess")
"""The steps of a prediction, by the names they have everywhere."""


@dataclass
class _Stopwatch:
    device: torch.device
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds[name] += time.perf_counter() - started


def choose_device(wanted: str) -> torch.device:
    """Turn ``auto``, ``cpu`` or ``cuda`` into a device.

    Raises:
        ValueError: Another word, or ``cuda`` where there is none.
    """
    if wanted not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device is {wanted!r}; it must be auto, cpu or cuda")
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is 'cuda', but PyTorch finds no CUDA device here")
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)


class Predictor:
    """A stored model, loaded. Stateless and safe to call from several threads."""

    def __init__(
        self,
        model: PromptableSam,
        manifest: Manifest,
        device: torch.device,
        cache: EmbeddingCache | None = None,
    ) -> None:
        """Run ``model`` on ``device``; see `load` for the ordinary way."""
        self._device = device
        self._cache = cache
        self._model = model.to(device).eval().requires_grad_(False)
        self._input_size = int(manifest.architecture["input_size"])
        backend: Backend = "cuda" if device.type == "cuda" else "cpu"
        integer_layers = [m for m in self._model.modules() if isinstance(m, Int8Matrix)]
        for layer in integer_layers:
            layer.use_backend(backend)
        self.info = ModelInfo(
            name=manifest.name,
            version=manifest.version,
            sha256=manifest.weights.sha256,
            precision="int8" if integer_layers else "fp32",
            device=str(device),
            manifest=manifest,
        )

    @classmethod
    def load(
        cls, folder: Path, device: str = "auto", cache: EmbeddingCache | None = None
    ) -> Predictor:
        """Load a stored model.

        Args:
            folder: Folder with ``manifest.json`` and the weights.
            device: ``auto`` (CUDA when there is one, else the CPU), ``cpu`` or ``cuda``.
            cache: Keeps embeddings of images seen before; None keeps none.

        Raises:
            ArtifactError: The folder is refused.
            ValueError: The device is unknown or absent.
        """
        chosen = choose_device(device)
        model, manifest = load_model(folder)
        return cls(model, manifest, chosen, cache)

    @property
    def model(self) -> PromptableSam:
        """The network itself, for analyses that look inside it."""
        return self._model

    def predict(self, request: PredictionRequest) -> Prediction:
        """Draw the masks of one X-ray; all its boxes share one encoder pass.

        Raises:
            BoxError: A box does not lie in the image.
            ValueError: Wrong image type, unknown convention, threshold outside (0, 1).
        """
        token = token_of(request.convention)
        logit_threshold = _logit(request.threshold)
        height, width = request.image.shape
        boxes = tuple(validate_box(box, width, height) for box in request.boxes)
        boxes = boxes or ((0.0, 0.0, float(width), float(height)),)
        watch = _Stopwatch(self._device)
        with torch.inference_mode():
            geometry = InputGeometry(width, height, self._input_size)
            embedding = self._embedding(request.image, geometry, watch)
            masks = tuple(
                self._decode(embedding, box, token, logit_threshold, geometry, watch)
                for box in boxes
            )
        return Prediction(masks, watch.seconds)

    def predict_batch(self, requests: Sequence[PredictionRequest]) -> list[Prediction]:
        """Draw the masks of several X-rays, each exactly as `predict` would draw it alone."""
        return [self.predict(request) for request in requests]

    def _embedding(
        self,
        image: NDArray[np.uint8] | NDArray[np.uint16],
        geometry: InputGeometry,
        watch: _Stopwatch,
    ) -> Tensor:
        key = b""
        with watch.stage("preprocess"):
            if self._cache is not None:
                key = content_key(image)
                known = self._cache.find(key)
                if known is not None:
                    return known
            normalized = self._normalized(image, geometry)
        with watch.stage("encode_image"):
            embedding = self._model.encode_image(normalized)
        if self._cache is not None:
            self._cache.keep(key, embedding)
        return embedding

    def _normalized(
        self, image: NDArray[np.uint8] | NDArray[np.uint16], geometry: InputGeometry
    ) -> Tensor:
        pixels = torch.from_numpy(geometry.image_to_input(window_to_uint8(image)))
        valid = torch.from_numpy(geometry.valid_region())
        return self._model.normalize(
            pixels[None, None].to(self._device), valid[None, None].to(self._device)
        )

    def _decode(
        self,
        embedding: Tensor,
        box: Box,
        token: int,
        logit_threshold: float,
        geometry: InputGeometry,
        watch: _Stopwatch,
    ) -> MaskPrediction:
        with watch.stage("decode_mask"):
            prompt = torch.tensor([geometry.box_to_input(box)], device=self._device)
            index = torch.zeros(1, dtype=torch.int64, device=self._device)
            logits, predicted_iou = self._model.decode_masks(embedding, prompt, index)
        with watch.stage("postprocess"):
            full = geometry.logits_to_image(logits[0, token].float())  # (H, W)
            mask: NDArray[np.bool_] = (full > logit_threshold).cpu().numpy()
            score = min(max(float(predicted_iou[0, token]), 0.0), 1.0)
        return MaskPrediction(box, mask, score)


def _logit(threshold: float) -> float:
    if not 0.0 < threshold < 1.0:
        raise ValueError(f"threshold is {threshold}; it must lie between 0 and 1")
    return math.log(threshold / (1.0 - threshold))
