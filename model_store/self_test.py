"""Does this model, on this machine, still draw the mask that it drew when it was made?"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from PIL import Image

from model_store.artifact import ArtifactError, sha256_of
from model_store.predictor import PredictionRequest, Predictor
from model_store.preparation import mask_from, prepare
from model_store.self_test_result import SelfTestResult as SelfTestResult


def run_self_test(predictor: Predictor, folder: Path) -> SelfTestResult:
    """Predict the golden image of a stored model and compare with its golden mask.

    Args:
        predictor: The loaded model.
        folder: The folder that it was loaded from.

    Raises:
        ArtifactError: The model has no self test, or its files are missing or damaged.
    """
    test = predictor.info.manifest.self_test
    if test is None:
        raise ArtifactError(f"{folder}: the manifest has no self_test")
    for file, digest in (
        (test.image_file, test.image_sha256),
        (test.mask_file, test.mask_sha256),
    ):
        path = folder / file
        if Path(file).name != file or not path.is_file():
            raise ArtifactError(f"{path} is missing")
        if sha256_of(path) != digest:
            raise ArtifactError(f"{path} is damaged or another file: its sha256 differs")
    with Image.open(folder / test.image_file) as image_file:
        image = np.asarray(image_file.convert("L"))
    with Image.open(folder / test.mask_file) as mask_file:
        golden = np.asarray(mask_file.convert("L")) > 0
    started = time.perf_counter()
    request = PredictionRequest(image, (test.box,), test.convention)
    prepared = prepare(request, predictor.info.input_size)  # in steps, as masks are served
    found = predictor.answer_batch([prepared])[0].masks[0]
    mask = mask_from(found, prepared.geometry, request.threshold).mask
    seconds = time.perf_counter() - started
    if mask.shape != golden.shape:
        return SelfTestResult(False, 0.0, test.minimum_agreement, seconds)
    agreement = float((mask == golden).mean())
    return SelfTestResult(
        agreement >= test.minimum_agreement, agreement, test.minimum_agreement, seconds
    )
