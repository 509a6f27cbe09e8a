"""The stored model in the compute process: predictor, golden mask and GPU memory."""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from model_store.artifact import ArtifactError
from model_store.embedding_cache import EmbeddingCache
from model_store.model_index import default_model_folder
from model_store.postprocessing import NetworkAnswer
from model_store.prediction import ModelInfo
from model_store.predictor import Predictor
from model_store.preprocessing import PreparedRequest
from model_store.self_test import GoldenFiles, compare_with_golden, read_golden_files
from model_store.self_test_result import SelfTestResult
from service.compute.hosted_model import DeviceLostError, OutOfDeviceMemoryError
from service.compute.model_handle import ModelRefusedError
from service.cpu_allowance import model_threads
from service.settings import Settings

logger = logging.getLogger("service.model")

_LOST_DEVICE_WORDS = ("CUDA error", "CUDNN_STATUS", "CUBLAS_STATUS", "device-side assert")
"""PyTorch raises a plain RuntimeError for most of these; only the message tells them apart."""


def make_stored_model(settings: Settings) -> StoredModel:
    """Load the model that the settings name.

    Raises:
        ArtifactError: the folder holds no usable model.
        ModelRefusedError: the device is absent.
    """
    torch.set_num_threads(settings.threads or model_threads())
    folder = model_folder(settings)
    size_bytes = settings.embedding_cache_bytes
    cache = EmbeddingCache(size_bytes) if size_bytes else None
    try:
        predictor = Predictor.load(folder, settings.device, cache, records_all=False)
    except ArtifactError:
        raise
    except ValueError as error:  # about the device
        raise ModelRefusedError(str(error), is_setting=True) from error
    return StoredModel(predictor, read_golden_files(predictor.info.manifest, folder), cache)


def model_folder(settings: Settings) -> Path:
    """Return the folder to serve: the one given, or the default model."""
    return settings.model if settings.model is not None else default_model_folder()


class StoredModel:
    """A loaded predictor with the further interface that the compute process needs."""

    def __init__(
        self, predictor: Predictor, golden: GoldenFiles, cache: EmbeddingCache | None
    ) -> None:
        """Keep the predictor, its golden files and its cache of embeddings."""
        self._predictor = predictor
        self._golden = golden
        self._cache = cache

    @property
    def info(self) -> ModelInfo:
        """Name, version, digest, precision and device of the model."""
        return self._predictor.info

    def answer(self, request: PreparedRequest) -> NetworkAnswer:
        """Run the network on one image."""
        with _device_errors():
            return self._predictor.answer_batch([request])[0]

    @property
    def shares_calls(self) -> bool:
        """Whether images share an encoder pass: on GPUs, which always add in the same order."""
        return self._predictor.engine.batches_alike

    def answer_batch(self, requests: Sequence[PreparedRequest]) -> list[NetworkAnswer]:
        """Run the network on several images; they share an encoder pass."""
        with _device_errors():
            return self._predictor.answer_batch(requests)

    def record_further(self) -> bool:
        """Prepare the next larger batch; False when nothing is left to prepare."""
        with _device_errors():
            is_more_left = self._predictor.engine.record_further()
        refusal = getattr(self._predictor.engine, "batch_refusal", None)
        if refusal is not None:
            logger.warning("batches are smaller", extra={"fields": {"reason": refusal}})
        return is_more_left

    def self_test(self) -> SelfTestResult:
        """Predict the golden image and compare, without cached embeddings, which prove nothing."""
        if self._cache is not None:
            self._cache.clear()
        with _device_errors():
            return compare_with_golden(self._predictor, self._golden)

    def free_memory(self) -> None:
        """Drop cached embeddings and release the GPU's cached blocks."""
        if self._cache is not None:
            self._cache.clear()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def gpu_memory(self) -> dict[str, int]:
        """Return bytes of GPU memory by kind; empty on a CPU."""
        device = self.info.device
        if not device.startswith("cuda"):
            return {}
        return {
            "allocated": torch.cuda.memory_allocated(device),
            "reserved": torch.cuda.memory_reserved(device),
            "total": torch.cuda.get_device_properties(device).total_memory,
        }


@contextmanager
def _device_errors() -> Generator[None, None, None]:
    """Translate PyTorch's errors of a full or lost device into `hosted_model`'s."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise OutOfDeviceMemoryError from error
    except RuntimeError as error:
        if any(word in str(error) for word in _LOST_DEVICE_WORDS):
            raise DeviceLostError from error
        raise
