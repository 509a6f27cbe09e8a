from pathlib import Path

import numpy as np
import pytest

from model_store.artifact import ArtifactError, load_quality_head, read_manifest, write_manifest
from model_store.manifest import Manifest, QualityHeadFile
from model_store.prediction import PredictionRequest
from model_store.predictor import Predictor
from model_store.preprocessing import prepare
from model_store.quality_head import (
    PARTS,
    QUALITY_LABELS,
    QualityHead,
    pooled,
    write_quality_head,
)
from tests.tiny_models import make_tiny_config, make_tiny_model, write_tiny_artifact
from training.data.dataset import LabelledXray
from training.export import write_deployed
from training.quality.changes import changed_xray, other_picture, ruined_xray
from training.quality.fitting import QualityPictures, fit_head, head_outputs, limits_of

FEATURES = 32 * PARTS * PARTS


def make_head(seed: int = 0, features: int = FEATURES) -> QualityHead:
    rng = np.random.default_rng(seed)
    shapes = ((8, features), (8,), (len(QUALITY_LABELS), 8), (len(QUALITY_LABELS),))
    return QualityHead(QUALITY_LABELS, *(rng.normal(0, 1, s).astype(np.float32) for s in shapes))


def make_xray() -> LabelledXray:
    lungs = np.zeros((2, 96, 96), bool)
    lungs[0, 20:80, 10:40] = lungs[1, 20:80, 56:86] = True
    image = (np.tile(np.arange(96), (96, 1)) * 2).astype(np.uint8)
    return LabelledXray("x", "s", "lung_field", image, lungs)


def with_head(folder: Path, head: QualityHead) -> Manifest:
    """Write a head into a stored model and name it in its manifest."""
    limits = dict.fromkeys(QUALITY_LABELS, 0.5)
    sha256 = write_quality_head(folder / "quality_head.safetensors", head)
    named = QualityHeadFile(sha256=sha256, labels=QUALITY_LABELS, limits=limits)
    manifest = read_manifest(folder).model_copy(update={"quality_head": named})
    write_manifest(folder, manifest)
    return manifest


def test_a_predictor_says_what_kind_of_picture_it_saw(tmp_path: Path) -> None:
    folder = write_tiny_artifact(tmp_path)
    image = np.random.default_rng(0).integers(0, 255, (70, 60)).astype(np.uint8)
    request = PredictionRequest(image)
    before = Predictor.load(folder, "cpu").predict(request)
    assert before.quality is None
    with_head(folder, make_head())
    predictor = Predictor.load(folder, "cpu")
    after = predictor.predict(request)
    assert after.quality is not None and tuple(after.quality) == QUALITY_LABELS
    assert all(0 <= value <= 1 for value in after.quality.values())
    assert np.array_equal(before.masks[0].mask, after.masks[0].mask)
    (answer,) = predictor.answer_batch([prepare(request, 64)])
    assert answer.quality == after.quality


@pytest.mark.parametrize("broken", ["missing", "damaged", "of another model"])
def test_a_head_that_does_not_fit_is_refused(tmp_path: Path, broken: str) -> None:
    folder = write_tiny_artifact(tmp_path)
    manifest = with_head(
        folder, make_head(features=16 if broken == "of another model" else FEATURES)
    )
    path = folder / "quality_head.safetensors"
    if broken == "missing":
        path.unlink()
    if broken == "damaged":
        path.write_bytes(path.read_bytes()[:-4] + b"1234")
    with pytest.raises(ArtifactError, match=r"quality_head\.safetensors"):
        load_quality_head(folder, manifest)


def test_the_pooled_embedding_keeps_where_things_are() -> None:
    embedding = np.zeros((2, 8, 8), np.float32)
    embedding[1, :2, 6:] = 3
    means = pooled(embedding).reshape(2, PARTS, PARTS)
    assert means[1, 0, 3] == 3 and means.sum() == 3
    with pytest.raises(ValueError, match="divide"):
        pooled(np.zeros((2, 6, 6), np.float32))


def test_changes_are_labelled_by_what_was_done() -> None:
    seen = {name: 0 for name in QUALITY_LABELS}
    for number in range(80):
        sample = changed_xray(make_xray(), 64, np.random.default_rng(number))
        assert sample.pixels.shape == sample.valid.shape == (64, 64)
        labels = dict(zip(QUALITY_LABELS, sample.labels.tolist(), strict=True))
        assert labels["not_frontal_chest"] == 0
        assert labels["turned_90"] + labels["turned_180"] + labels["turned_270"] <= 1
        for name, value in labels.items():
            seen[name] += int(value)
    assert all(seen[name] > 3 for name in QUALITY_LABELS if name != "not_frontal_chest")
    good = changed_xray(make_xray(), 64, np.random.default_rng(0), change=False)
    assert not good.labels.any() and good.known.all()


def test_other_pictures_and_ruins_are_known_as_nothing_but_that() -> None:
    rng = np.random.default_rng(3)
    pictures = [ruined_xray(make_xray(), make_xray(), 64, rng) for _ in range(30)]
    pictures.append(other_picture(rng.integers(0, 255, (50, 90)).astype(np.uint8), 64, rng))
    for sample in pictures:
        assert sample.labels.tolist() == [1, 0, 0, 0, 0, 0, 0] == sample.known.tolist()


def test_pictures_are_a_pure_function_of_seed_and_number() -> None:
    first, again = (QualityPictures([make_xray()], [], 64, 9, seed=4) for _ in range(2))
    assert np.array_equal(first[5].pixels, again[5].pixels)
    assert not np.array_equal(first[5].pixels, first[6].pixels)


def test_a_fitted_head_names_what_it_was_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.quality.fitting._STEPS", 300)
    rng = np.random.default_rng(0)
    labels = (rng.random((400, len(QUALITY_LABELS))) < 0.4).astype(np.float32)
    rows = np.concatenate([labels, rng.normal(0, 1, (400, 25))], 1).astype(np.float32)
    head = fit_head(rows, labels, np.ones_like(labels), seed=0)
    assert ((head_outputs(head, rows) > 0.5) == (labels > 0)).mean() > 0.97


def test_a_limit_lies_above_what_good_xrays_reach() -> None:
    good = np.full((100, len(QUALITY_LABELS)), 0.1)
    good[:, 2] = 0.7
    limits = limits_of(good)
    assert limits["not_frontal_chest"] == 0.5 and limits["turned_180"] == pytest.approx(0.72)


def test_a_stored_model_says_which_structures_it_knows(tmp_path: Path) -> None:
    model, sizes = make_tiny_model(num_mask_tokens=3), make_tiny_config(num_mask_tokens=3)
    stored = write_deployed(model, sizes, tmp_path, name="t", version="1", structures=["heart"])
    predictor = Predictor.load(stored.folder, "cpu")
    assert predictor.info.manifest.structures == {"heart": 2}
    image = np.random.default_rng(0).integers(0, 255, (70, 60)).astype(np.uint8)
    heart = predictor.predict(PredictionRequest(image, structure="heart")).masks[0].mask
    lungs = predictor.predict(PredictionRequest(image)).masks[0].mask
    assert not np.array_equal(heart, lungs)
    plain = Predictor.load(write_tiny_artifact(tmp_path / "plain"), "cpu")
    with pytest.raises(ValueError, match="knows lungs only"):
        plain.predict(PredictionRequest(image, structure="heart"))


def test_a_manifest_of_the_first_format_knows_lungs_alone(tmp_path: Path) -> None:
    manifest = read_manifest(write_tiny_artifact(tmp_path))
    plain = manifest.model_dump()
    assert Manifest.model_validate({**plain, "format_version": 1}).structures == {}
    with pytest.raises(ValueError, match="lungs alone"):
        Manifest.model_validate({**plain, "format_version": 1, "structures": {"heart": 2}})
