import shutil
from pathlib import Path

import pytest
import torch

from model_store.artifact import ArtifactError, load_model
from model_store.predictor import Predictor
from model_store.self_test import run_self_test


def test_a_model_predicts_its_own_golden_mask(tiny_artifact: Path) -> None:
    result = run_self_test(Predictor.load(tiny_artifact, "cpu"), tiny_artifact)
    assert result.passed and result.agreement == 1.0


def test_damaged_weights_in_memory_fail(tiny_artifact: Path) -> None:
    model, manifest = load_model(tiny_artifact)
    model.mask_decoder.output_upscaling[0].weight.neg_()
    result = run_self_test(Predictor(model, manifest, torch.device("cpu")), tiny_artifact)
    assert not result.passed and result.agreement < result.minimum


@pytest.mark.parametrize("name", ["golden_image.png", "golden_mask.png"])
def test_damaged_golden_files_are_named(tiny_artifact: Path, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(tiny_artifact, tmp_path / "copy"))
    predictor = Predictor.load(folder, "cpu")
    (folder / name).write_bytes(b"damaged")
    with pytest.raises(ArtifactError, match=name):
        run_self_test(predictor, folder)
    (folder / name).unlink()
    with pytest.raises(ArtifactError, match="missing"):
        run_self_test(predictor, folder)
