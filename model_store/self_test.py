"""The self test: does a model on this machine still predict its golden mask?"""

from __future__ import annotations

import hashlib
import io
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from model_store.artifact import ArtifactError
from model_store.manifest import Manifest
from model_store.postprocessing import mask_from
from model_store.predictor import PredictionRequest, Predictor
from model_store.preprocessing import prepare
from model_store.self_test_result import SelfTestResult as SelfTestResult


@dataclass(frozen=True)
class GoldenFiles:
    """The golden image of a stored model and the mask that belongs to it.

    Attributes:
        image: ``(H, W)`` uint8.
        mask: ``(H, W)`` bool.
    """

    image: np.ndarray
    mask: np.ndarray


def read_golden_files(manifest: Manifest, folder: Path) -> GoldenFiles:
    """Read the golden files into memory, so that later changes on disk have no effect.

    Args:
        manifest: The manifest of the loaded model.
        folder: The folder that it was loaded from.

    Raises:
        ArtifactError: The model has no self test, or its files are missing or damaged.
    """
    test = manifest.self_test
    if test is None:
        raise ArtifactError(f"{folder}: the manifest has no self_test")
    found = []
    for file, digest in (
        (test.image_file, test.image_sha256),
        (test.mask_file, test.mask_sha256),
    ):
        path = folder / file
        if Path(file).name != file or not path.is_file():
            raise ArtifactError(f"{path} is missing")
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != digest:
            raise ArtifactError(f"{path} is damaged or another file: its sha256 differs")
        with Image.open(io.BytesIO(content)) as picture:
            found.append(np.asarray(picture.convert("L")))
    return GoldenFiles(found[0], found[1] > 0)


def run_self_test(predictor: Predictor, folder: Path) -> SelfTestResult:
    """Predict the golden image of a stored model and compare with its golden mask.

    Args:
        predictor: The loaded model.
        folder: The folder that it was loaded from.

    Raises:
        ArtifactError: The model has no self test, or its files are missing or damaged.
    """
    return compare_with_golden(predictor, read_golden_files(predictor.info.manifest, folder))


def compare_with_golden(predictor: Predictor, golden: GoldenFiles) -> SelfTestResult:
    """Predict the golden image and compare with its golden mask."""
    test = predictor.info.manifest.self_test
    assert test is not None  # its files were read
    started = time.perf_counter()
    request = PredictionRequest(golden.image, (test.box,), test.convention)
    prepared = prepare(request, predictor.info.input_size)  # in steps, as the service makes masks
    found = predictor.answer_batch([prepared])[0].masks[0]
    mask = mask_from(found, prepared.geometry, request.threshold).mask
    seconds = time.perf_counter() - started
    if mask.shape != golden.mask.shape:
        return SelfTestResult(False, 0.0, test.minimum_agreement, seconds)
    agreement = float((mask == golden.mask).mean())
    return SelfTestResult(
        agreement >= test.minimum_agreement, agreement, test.minimum_agreement, seconds
    )
