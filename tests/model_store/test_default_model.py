"""The stored default model: small enough, right on phantoms, right on X-rays it never saw."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from model_store.conventions import CONVENTIONS, Convention
from model_store.model_index import (
    MODELS_FOLDER,
    default_float_twin_folder,
    default_model_folder,
    read_index,
)
from model_store.predictor import PredictionRequest, Predictor
from model_store.self_test import run_self_test
from training.data.dataset import load_xray, read_rows
from training.data.prompts import tight_box
from training.evaluation.metrics import dice
from training.phantom import draw_phantom

FOLDER = default_model_folder()
SOURCES = ("ieee8023", "kermany", "montgomery", "wingspan")


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor.load(FOLDER, "cpu")


def test_every_stored_model_passes_its_self_test() -> None:
    folders = [path.parent for path in MODELS_FOLDER.glob("*/*/manifest.json")]
    here = [MODELS_FOLDER / m.label for m in read_index() if m.status != "superseded"]
    assert sorted(folders) == sorted(here)
    for folder in folders:
        result = run_self_test(Predictor.load(folder, "cpu"), folder)
        assert result.passed, f"{folder}: {result}"


@pytest.mark.parametrize("capability", ["default", "avx2"])
def test_other_processors_draw_the_same_golden_mask(capability: str) -> None:
    """Older CPUs add floats in another order; that must not close the service there."""
    code = (
        "import sys; from pathlib import Path; from model_store.predictor import Predictor; "
        "from model_store.self_test import run_self_test; folder = Path(sys.argv[1]); "
        "result = run_self_test(Predictor.load(folder, 'cpu'), folder); "
        "sys.exit(None if result.passed else str(result))"
    )
    limits = {
        "ATEN_CPU_CAPABILITY": capability,
        "ONEDNN_MAX_CPU_ISA": "AVX2" if capability == "avx2" else "SSE41",
    }
    environment = {**os.environ, **limits, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, str(FOLDER)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_it_is_small(predictor: Predictor) -> None:
    size = sum(file.stat().st_size for file in FOLDER.iterdir())
    assert size <= 12e6
    assert size <= 0.29 * predictor.info.manifest.weights.float_size_bytes
    assert predictor.info.precision == "int8"


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_it_segments_phantoms_it_has_not_seen(predictor: Predictor, convention: Convention) -> None:
    scores = []
    for seed in range(5000, 5012):
        phantom = draw_phantom(seed, (400, 440))
        answer = predictor.predict(PredictionRequest(phantom.image, (), convention))
        scores.append(dice(answer.masks[0].mask, phantom.mask(convention)))
    assert np.mean(scores) >= 0.9 and min(scores) >= 0.8


def test_a_box_of_one_lung_means_that_lung(predictor: Predictor) -> None:
    phantom = draw_phantom(5000, (512, 512))
    for lung in (phantom.image_left_lung("lung_field"), phantom.image_right_lung("lung_field")):
        box = tight_box(lung)
        assert box is not None
        mask = predictor.predict(PredictionRequest(phantom.image, (box,))).masks[0].mask
        assert dice(mask, lung) >= 0.85


@pytest.mark.parametrize("source", SOURCES)
def test_it_segments_xrays_of_the_validation_split(
    predictor: Predictor, xray_data: Path, source: str
) -> None:
    rows = [row for row in read_rows(xray_data, "val") if row.source == source][:8]
    twin = Predictor.load(default_float_twin_folder(), "cpu")
    assert twin.info.name + "/" + twin.info.version == predictor.info.manifest.float_twin
    integers, floats = [], []
    for row in rows:
        xray = load_xray(row)
        box = tight_box(xray.mask)
        assert box is not None
        request = PredictionRequest(xray.image, (box,), row.convention)
        integers.append(dice(predictor.predict(request).masks[0].mask, xray.mask))
        floats.append(dice(twin.predict(request).masks[0].mask, xray.mask))
    assert np.mean(integers) >= 0.9
    assert abs(np.mean(integers) - np.mean(floats)) <= 0.005
