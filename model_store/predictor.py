"""X-rays and boxes in, masks and scores out: the one way in which a stored model is asked.

A `Predictor` holds weights and nothing about its callers. A patient's mask must not change with
its neighbours, not by a pixel. Float kernels of PyTorch may add in another order when the batch
has another size, so on the CPU each image and each box goes through the network alone; the fused
kernels for GPUs add in the same order at any batch size, so there images share an encoder pass.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model_store.artifact import load_model
from model_store.conventions import token_of
from model_store.embedding_cache import EmbeddingCache, content_key
from model_store.engine.execution import Engine, choose_engine
from model_store.geometry import Box, InputGeometry, validate_box, window_to_uint8
from model_store.int8_layers import Int8Matrix
from model_store.manifest import Manifest
from model_store.mask_resampling import logits_above
from model_store.prediction import MaskPrediction as MaskPrediction
from model_store.prediction import ModelInfo as ModelInfo
from model_store.prediction import Prediction as Prediction
from model_store.prediction import PredictionRequest as PredictionRequest
from model_store.sam import PromptableSam

STAGES = ("preprocess", "encode_image", "decode_mask", "postprocess")
"""The steps of a prediction, by the names they have everywhere."""


@dataclass(frozen=True)
class _Question:
    """What is asked of an image, validated."""

    boxes: tuple[Box, ...]
    token: int
    logit_threshold: float

    @classmethod
    def of(cls, request: PredictionRequest, known: Mapping[str, int]) -> _Question:
        token, threshold = token_of(request.convention), _logit(request.threshold)
        if request.convention not in known:
            drawn = ", ".join(known)
            raise ValueError(f"convention is {request.convention!r}; this model draws {drawn} only")
        height, width = request.image.shape
        boxes = tuple(validate_box(box, width, height) for box in request.boxes)
        return cls(boxes or ((0.0, 0.0, float(width), float(height)),), token, threshold)


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
        engine: Engine | None = None,
    ) -> None:
        """Run ``model`` on ``device``, by its fastest engine or a given one; see also `load`."""
        self._device = device
        self._cache = cache
        self._model = model.to(device).eval().requires_grad_(False)
        self._input_size = int(manifest.architecture["input_size"])
        integers = any(isinstance(module, Int8Matrix) for module in self._model.modules())
        # Each grey value normalised, (C, 256). On a CPU values are looked up, in this thread:
        # PyTorch's would still be waiting for more work when those of the engine begin theirs.
        grey = torch.arange(256, device=device)
        self._levels = self._model.normalize(grey).view(-1, 256).cpu().numpy()
        self._engine = engine or choose_engine(self._model, self._input_size)
        self.info = ModelInfo(
            name=manifest.name,
            version=manifest.version,
            sha256=manifest.weights.sha256,
            precision="int8" if integers else "fp32",
            device=str(device),
            manifest=manifest,
            engine=self._engine.name,
            fallback_reason=self._engine.fallback_reason,
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

    @property
    def engine(self) -> Engine:
        """Who executes the network, for measurements of its parts."""
        return self._engine

    def predict(self, request: PredictionRequest) -> Prediction:
        """Draw the masks of one X-ray; all its boxes share one encoder pass.

        Raises:
            BoxError: A box does not lie in the image.
            ValueError: Wrong image type, unknown convention, threshold outside (0, 1).
        """
        return self.predict_batch([request])[0]

    def predict_batch(self, requests: Sequence[PredictionRequest]) -> list[Prediction]:
        """Draw the masks of several X-rays, each exactly as `predict` would draw it alone.

        The time of a shared encoder pass counts in full for every X-ray in it.

        Raises:
            BoxError: A box does not lie in its image.
            ValueError: Wrong image type, unknown convention, threshold outside (0, 1).
        """
        known = self.info.manifest.conventions
        questions = [_Question.of(request, known) for request in requests]
        watches = [_Stopwatch(self._device) for _ in requests]
        with torch.inference_mode():
            geometries = [
                InputGeometry(r.image.shape[1], r.image.shape[0], self._input_size)
                for r in requests
            ]
            embeddings = self._embeddings(requests, geometries, watches)
            return [
                Prediction(
                    tuple(
                        self._decode(embedding, box, question, geometry, watch)
                        for box in question.boxes
                    ),
                    watch.seconds,
                )
                for embedding, question, geometry, watch in zip(
                    embeddings, questions, geometries, watches, strict=True
                )
            ]

    def _embeddings(
        self,
        requests: Sequence[PredictionRequest],
        geometries: Sequence[InputGeometry],
        watches: Sequence[_Stopwatch],
    ) -> list[Tensor]:
        """Embedding (1, D, G, G) of each X-ray, kept from before or encoded now."""
        found: list[Tensor | None] = []
        keys: list[bytes] = []
        inputs: dict[int, Tensor] = {}
        for index, (request, watch) in enumerate(zip(requests, watches, strict=True)):
            with watch.stage("preprocess"):
                keys.append(b"" if self._cache is None else content_key(request.image))
                found.append(None if self._cache is None else self._cache.find(keys[-1]))
                if found[-1] is None:
                    inputs[index] = self._normalized(request.image, geometries[index])
        encoded = self._encode(list(inputs.values()), [watches[index] for index in inputs])
        for index, embedding in zip(inputs, encoded, strict=True):
            found[index] = embedding
            if self._cache is not None:
                self._cache.keep(keys[index], embedding)
        return [embedding for embedding in found if embedding is not None]

    def _encode(self, inputs: list[Tensor], watches: list[_Stopwatch]) -> list[Tensor]:
        """Encode images (1, C, S, S), together where that changes nothing, to (1, D, G, G)."""
        if not self._engine.batches_alike:
            embeddings = []
            for normalized, watch in zip(inputs, watches, strict=True):
                with watch.stage("encode_image"):
                    embeddings.append(self._engine.encode_image(normalized))
            return embeddings
        if not inputs:
            return []
        with ExitStack() as stages:
            for watch in watches:
                stages.enter_context(watch.stage("encode_image"))
            together = self._engine.encode_image(torch.cat(inputs))
        # Copies, so that one that is kept does not hold the memory of its whole batch.
        return [together[index : index + 1].clone() for index in range(len(inputs))]

    def _normalized(
        self, image: NDArray[np.uint8] | NDArray[np.uint16], geometry: InputGeometry
    ) -> Tensor:
        pixels = geometry.image_to_input(window_to_uint8(image))
        if self._device.type == "cpu":
            return torch.from_numpy(geometry.look_up(pixels, self._levels)[None])
        valid = torch.from_numpy(geometry.valid_region())
        return self._model.normalize(
            torch.from_numpy(pixels)[None, None].to(self._device),
            valid[None, None].to(self._device),
        )

    def _decode(
        self,
        embedding: Tensor,
        box: Box,
        question: _Question,
        geometry: InputGeometry,
        watch: _Stopwatch,
    ) -> MaskPrediction:
        with watch.stage("decode_mask"):
            prompt = torch.tensor([geometry.box_to_input(box)], device=self._device)
            logits, predicted_iou = self._engine.decode_box(embedding, prompt)
        with watch.stage("postprocess"):
            mask = self._mask(logits[0, question.token].float(), geometry, question)
            score = min(max(float(predicted_iou[0, question.token]), 0.0), 1.0)
        return MaskPrediction(box, mask, score)

    def _mask(
        self, logits: Tensor, geometry: InputGeometry, question: _Question
    ) -> NDArray[np.bool_]:
        """Turn mask logits (M, M) into the pixels of the image (H, W)."""
        if self._device.type == "cpu":
            return logits_above(logits.numpy(), geometry, question.logit_threshold)
        full = geometry.logits_to_image(logits)
        mask: NDArray[np.bool_] = (full > question.logit_threshold).cpu().numpy()
        return mask


def _logit(threshold: float) -> float:
    if not 0.0 < threshold < 1.0:
        raise ValueError(f"threshold is {threshold}; it must lie between 0 and 1")
    return math.log(threshold / (1.0 - threshold))
