"""The inference API of a stored model: X-rays and boxes in, masks and scores out.

A `Predictor` holds weights and nothing about its callers. A patient's mask must not depend on other
X-rays in the batch, not even by a pixel. Float kernels of PyTorch may add in another order at
another batch size, so on the CPU the network gets each image and each box alone. The fused kernels
for GPUs add in the same order at any batch size, so there images share an encoder pass.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model_store.artifact import load_model, load_quality_head
from model_store.embedding_cache import EmbeddingCache, content_key
from model_store.engine.choice import choose_engine
from model_store.engine.protocol import Engine
from model_store.geometry import Box, InputGeometry
from model_store.int8_layers import Int8Matrix
from model_store.logit_resampling import logits_to_image
from model_store.manifest import Manifest
from model_store.postprocessing import MaskLogits, NetworkAnswer, logit_of, mask_from
from model_store.prediction import MaskPrediction as MaskPrediction
from model_store.prediction import ModelInfo as ModelInfo
from model_store.prediction import Prediction as Prediction
from model_store.prediction import PredictionRequest as PredictionRequest
from model_store.preprocessing import PreparedRequest, prepare
from model_store.quality_head import QualityHead
from model_store.sam import PromptableSam
from model_store.soft_dice import soft_dice_confidence
from model_store.stages import NETWORK_STAGES, PREDICTION_STAGES
from model_store.structures import LUNGS, Structure, mask_token


@dataclass(frozen=True)
class _Found:
    """The network's output for a structure in a box, on the device: logits (M, M)."""

    box: Box
    logits: Tensor
    score: float
    structure: Structure


@dataclass(frozen=True)
class _FoundOfXray:
    """The network's output for one X-ray: for each of its boxes, and for the whole picture."""

    masks: list[_Found]
    quality: dict[str, float] | None


@dataclass
class _Stopwatch:
    device: torch.device
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PREDICTION_STAGES, 0.0))

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds[name] += time.perf_counter() - started


def choose_device(wanted: str) -> torch.device:
    """Return the device for ``auto``, ``cpu`` or ``cuda``.

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
        quality_head: QualityHead | None = None,
    ) -> None:
        """Run ``model`` on ``device`` with its fastest or the given engine; see also `load`."""
        self._quality_head = quality_head
        self._device = device
        self._cache = cache
        self._model = model.to(device).eval().requires_grad_(False)
        self._input_size = int(manifest.architecture["input_size"])
        integers = any(isinstance(module, Int8Matrix) for module in self._model.modules())
        # Each grey value normalised, (C, 256). On a CPU values are looked up in this thread,
        # because PyTorch's threads would still spin when the engine's threads start.
        grey = torch.arange(256, device=device)
        self._levels = self._model.normalize(grey).view(-1, 256).cpu().numpy()
        self._engine = engine or choose_engine(self._model, self._input_size)
        self.info = ModelInfo(
            name=manifest.name,
            version=manifest.version,
            sha256=manifest.weights.sha256,
            precision="int8" if integers else "fp32",
            device=str(device),
            input_size=self._input_size,
            manifest=manifest,
            engine=self._engine.name,
            fallback_reason=self._engine.fallback_reason,
        )

    @classmethod
    def load(
        cls,
        folder: Path,
        device: str = "auto",
        cache: EmbeddingCache | None = None,
        *,
        records_all: bool = True,
    ) -> Predictor:
        """Load a stored model.

        Args:
            folder: Folder with ``manifest.json`` and the weights.
            device: ``auto`` (CUDA when there is one, else the CPU), ``cpu`` or ``cuda``.
            cache: Keeps embeddings of images seen before; None keeps none.
            records_all: Whether the engine prepares everything now; otherwise call
                ``engine.record_further`` until nothing is left.

        Raises:
            ArtifactError: The folder is refused.
            ValueError: The device is unknown or absent.
        """
        chosen = choose_device(device)
        model, manifest = load_model(folder)
        head = load_quality_head(folder, manifest)
        predictor = cls(model, manifest, chosen, cache, quality_head=head)
        while records_all and predictor.engine.record_further():
            pass
        return predictor

    @property
    def model(self) -> PromptableSam:
        """The network itself, for analyses that look inside it."""
        return self._model

    @property
    def engine(self) -> Engine:
        """The engine, for measurements of its parts."""
        return self._engine

    def predict(self, request: PredictionRequest) -> Prediction:
        """Predict the masks of one X-ray; all its boxes share one encoder pass.

        Raises:
            BoxError: A box does not lie in the image.
            ValueError: Wrong image type, unknown convention, threshold outside (0, 1).
        """
        return self.predict_batch([request])[0]

    def predict_batch(self, requests: Sequence[PredictionRequest]) -> list[Prediction]:
        """Predict the masks of several X-rays, each exactly as `predict` would alone.

        The time of a shared encoder pass counts in full for every X-ray in it.

        Raises:
            BoxError: A box does not lie in its image.
            ValueError: Wrong image type, unknown convention, threshold outside (0, 1).
        """
        watches = [_Stopwatch(self._device) for _ in requests]
        prepared = []
        for request, watch in zip(requests, watches, strict=True):
            with watch.stage("preprocess"):
                prepared.append(prepare(request, self._input_size))
        predictions = []
        answers = self._answers(prepared, watches)
        for request, ready, found, watch in zip(requests, prepared, answers, watches, strict=True):
            geometry = ready.geometry
            with watch.stage("postprocess"):
                masks = tuple(
                    self._mask_of(one, geometry, request.threshold) for one in found.masks
                )
            predictions.append(Prediction(masks, watch.seconds, found.quality))
        return predictions

    def answer_batch(self, requests: Sequence[PreparedRequest]) -> list[NetworkAnswer]:
        """Run only the network, on prepared X-rays.

        On a CPU `mask_from` turns the answers into the masks of `predict_batch`. On a GPU
        `predict_batch` resamples in another order of sums, which can change single pixels.

        Raises:
            ValueError: An X-ray was prepared for another network, or an unknown convention.
        """
        watches = [_Stopwatch(self._device) for _ in requests]
        answers = []
        found_by_request = self._answers(requests, watches)
        for found, watch in zip(found_by_request, watches, strict=True):
            masks = tuple(
                MaskLogits(one.box, one.logits.cpu().numpy(), one.score, one.structure)
                for one in found.masks
            )
            seconds = {stage: watch.seconds[stage] for stage in NETWORK_STAGES}
            answers.append(NetworkAnswer(masks, seconds, found.quality))
        return answers

    def _answers(
        self, requests: Sequence[PreparedRequest], watches: Sequence[_Stopwatch]
    ) -> list[_FoundOfXray]:
        """Return the network's output for each X-ray and each of its boxes."""
        tokens = [self._tokens(request) for request in requests]
        with torch.inference_mode():
            embeddings = self._embeddings(requests, watches)
            return [
                _FoundOfXray(
                    [
                        one
                        for box in request.boxes
                        for one in self._decode(embedding, box, known, request.geometry, watch)
                    ],
                    self._quality(embedding, watch),
                )
                for embedding, known, request, watch in zip(
                    embeddings, tokens, requests, watches, strict=True
                )
            ]

    def _quality(self, embedding: Tensor, watch: _Stopwatch) -> dict[str, float] | None:
        """Return the quality head's probabilities for an embedding (1, D, G, G)."""
        if self._quality_head is None:
            return None
        with watch.stage("encode_image"):
            return self._quality_head.probabilities(embedding[0].float().cpu().numpy())

    def _tokens(self, request: PreparedRequest) -> dict[Structure, int]:
        """Return each requested structure's mask token; refuse what does not fit this model."""
        size, pixels = self._input_size, request.pixels
        if pixels.shape != (size, size) or pixels.dtype != np.uint8:
            raise ValueError(
                f"the input is {pixels.dtype} {pixels.shape}; this model takes uint8 {(size, size)}"
            )
        structures = (LUNGS, *self.info.manifest.structures)
        for wanted in request.structures:
            if wanted not in structures:
                names = ", ".join(structures)
                raise ValueError(f"structure is {wanted!r}; this model knows {names} only")
        known = self.info.manifest.conventions
        if request.convention not in known:
            names = ", ".join(known)
            raise ValueError(f"convention is {request.convention!r}; this model knows {names} only")
        return {one: mask_token(one, request.convention) for one in request.structures}

    def _embeddings(
        self, requests: Sequence[PreparedRequest], watches: Sequence[_Stopwatch]
    ) -> list[Tensor]:
        """Return the embedding (1, D, G, G) of each X-ray, from the cache or encoded now."""
        found: list[Tensor | None] = []
        keys: list[bytes] = []
        inputs: dict[int, Tensor] = {}
        for index, (request, watch) in enumerate(zip(requests, watches, strict=True)):
            with watch.stage("encode_image"):
                key = b"" if self._cache is None else content_key(request.pixels, request.geometry)
                keys.append(key)
                found.append(None if self._cache is None else self._cache.find(key))
                if found[-1] is None:
                    inputs[index] = self._normalized(request)
        encoded = self._encode(list(inputs.values()), [watches[index] for index in inputs])
        for index, embedding in zip(inputs, encoded, strict=True):
            found[index] = embedding
            if self._cache is not None:
                self._cache.keep(keys[index], embedding)
        return [embedding for embedding in found if embedding is not None]

    def _encode(self, inputs: list[Tensor], watches: list[_Stopwatch]) -> list[Tensor]:
        """Encode images (1, C, S, S) to (1, D, G, G), in batches where that changes nothing."""
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
        # Copies, so that a cached embedding does not keep the memory of its whole batch.
        return [together[index : index + 1].clone() for index in range(len(inputs))]

    def _normalized(self, request: PreparedRequest) -> Tensor:
        """Return the input of the network (1, C, S, S)."""
        if self._device.type == "cpu":
            return torch.from_numpy(request.geometry.look_up(request.pixels, self._levels)[None])
        pixels = torch.from_numpy(request.pixels)
        valid = torch.from_numpy(request.geometry.valid_region())
        return self._model.normalize(
            pixels[None, None].to(self._device), valid[None, None].to(self._device)
        )

    def _decode(
        self,
        embedding: Tensor,
        box: Box,
        tokens: Mapping[Structure, int],
        geometry: InputGeometry,
        watch: _Stopwatch,
    ) -> list[_Found]:
        """Decode all tokens in one pass and return those requested."""
        with watch.stage("decode_mask"):
            prompt = torch.tensor([geometry.box_to_input(box)], device=self._device)
            logits, predicted_iou = self._engine.decode_box(embedding, prompt)
            scores = predicted_iou[0].float().clamp(0.0, 1.0).tolist()
            # Copies, because an engine may reuse the buffer for the next box's logits.
            return [
                _Found(box, logits[0, token].float().clone(), scores[token], structure)
                for structure, token in tokens.items()
            ]

    def _mask_of(self, found: _Found, geometry: InputGeometry, threshold: float) -> MaskPrediction:
        """Turn mask logits (M, M) into the pixels of the image (H, W)."""
        logits = found.logits.cpu().numpy()
        if self._device.type == "cpu":
            mask_logits = MaskLogits(found.box, logits, found.score, found.structure)
            return mask_from(mask_logits, geometry, threshold)
        with torch.inference_mode():
            full = logits_to_image(found.logits, geometry)
            mask: NDArray[np.bool_] = (full > logit_of(threshold)).cpu().numpy()
        confidence = soft_dice_confidence(logits, geometry)
        return MaskPrediction.of(found.box, mask, found.score, confidence, found.structure)
