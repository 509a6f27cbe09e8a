import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

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
from training.quality.damage import damaged
from training.quality.encoding import load_encoder
from training.quality.fitting import (
    Fitting,
    QualityPictures,
    _balanced,
    fit_head,
    head_outputs,
    limits_of,
)
from training.quality.storing import store_with_head

Rows = NDArray[np.float32]
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
    monkeypatch.setattr("training.quality.fitting.FRESH", Fitting(300, 4e-3, 0.05, 0.0))
    rng = np.random.default_rng(0)
    labels = (rng.random((400, len(QUALITY_LABELS))) < 0.4).astype(np.float32)
    rows = np.concatenate([labels, rng.normal(0, 1, (400, 25))], 1).astype(np.float32)
    head = fit_head(rows, labels, np.ones_like(labels), seed=0)
    assert ((head_outputs(head, rows) > 0.5) == (labels > 0)).mean() > 0.97


def told_apart(seed: int, second: bool) -> tuple[Rows, Rows, Rows]:
    """Return rows that show their labels; without ``second`` the last label is never true."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((400, len(QUALITY_LABELS))) < 0.4).astype(np.float32)
    labels[:, -1] *= second
    noise = rng.normal(0, 0.3, (400, 8))
    rows = np.concatenate([4 * labels + noise[:, :7], noise], 1).astype(np.float32)
    return rows, labels, np.ones_like(labels)


def test_a_head_that_is_fitted_further_learns_one_thing_more_and_forgets_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("training.quality.fitting.FRESH", Fitting(300, 4e-3, 0.05, 0.0))
    first = fit_head(*told_apart(0, second=False), seed=0)
    rows, labels, known = told_apart(1, second=True)
    is_right = (head_outputs(first, rows) > 0.5) == (labels > 0)
    assert is_right[:, :-1].mean() > 0.97 and is_right[:, -1].mean() < 0.7
    monkeypatch.setattr("training.quality.fitting.TUNING", Fitting(300, 1e-2, 0.0, 1e-4))
    further = fit_head(rows, labels, known, seed=0, start=first)
    rows, labels, _ = told_apart(2, second=True)
    is_right = (head_outputs(further, rows) > 0.5) == (labels > 0)
    assert is_right[:, :-1].mean() > 0.97 and is_right[:, -1].mean() > 0.9


def test_fitting_further_starts_from_what_the_head_says(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, labels, known = told_apart(0, second=True)
    head = make_head(features=rows.shape[1])
    monkeypatch.setattr("training.quality.fitting.TUNING", Fitting(1, 1e-12, 0.0, 0.0))
    same = fit_head(rows, labels, known, seed=3, start=head)
    np.testing.assert_allclose(head_outputs(same, rows), head_outputs(head, rows), atol=1e-4)


def test_xrays_of_rare_sources_come_more_often() -> None:
    children = [dataclasses.replace(make_xray(), name=f"c{n}", source="c") for n in range(30)]
    adults = [dataclasses.replace(make_xray(), name=f"a{n}", source="a") for n in range(3)]
    balanced = _balanced([*children, *adults])
    assert [xray.source for xray in balanced].count("a") == 15
    assert [xray.source for xray in balanced].count("c") == 30


@pytest.mark.parametrize("stored", ["integers", "floats"])
def test_a_head_is_fitted_to_what_a_stored_model_gives_it(tmp_path: Path, stored: str) -> None:
    if stored == "integers":
        folder = write_tiny_artifact(tmp_path)
    else:
        floats, sizes = make_tiny_model(), make_tiny_config()
        folder = write_deployed(floats, sizes, tmp_path, name="floats", version="1").folder
    head = make_head()
    with_head(folder, head)
    predictor = Predictor.load(folder, "cpu")
    images = [np.random.default_rng(n).integers(0, 255, (64, 64)).astype(np.uint8) for n in (1, 2)]
    encoder = load_encoder(folder, "cpu")
    ready = [prepare(PredictionRequest(image), encoder.input_size) for image in images]
    pixels = np.stack([one.pixels for one in ready])
    valid = np.stack([one.geometry.valid_region() for one in ready])
    for image, embedding in zip(images, encoder.embeddings(pixels, valid), strict=True):
        quality = predictor.predict(PredictionRequest(image)).quality
        assert quality == pytest.approx(head.probabilities(embedding), abs=1e-6)


def test_a_model_is_stored_again_with_another_head(tmp_path: Path) -> None:
    folder = write_tiny_artifact(tmp_path)
    before, old = read_manifest(folder), with_head(folder, make_head())
    fitted = tmp_path / "fitted"
    fitted.mkdir()
    sha256 = write_quality_head(fitted / "quality_head.safetensors", make_head(seed=1))
    limits = dict.fromkeys(QUALITY_LABELS, 0.6)
    record = {"sha256": sha256, "labels": QUALITY_LABELS, "limits": limits, "fitted": {"seed": 4}}
    (fitted / "quality_head.json").write_text(json.dumps(record), encoding="utf-8")
    new = store_with_head(folder, fitted, tmp_path / "models", "77")
    manifest = read_manifest(new)
    assert new == tmp_path / "models" / before.name / "77"
    assert manifest.version == "77" and manifest.weights == before.weights
    assert manifest.quality_head is not None and manifest.quality_head.limits == limits
    assert manifest.training["quality_head"] == {"fitted": {"seed": 4}}
    image = np.random.default_rng(0).integers(0, 255, (70, 60)).astype(np.uint8)
    one, other = (Predictor.load(f, "cpu").predict(PredictionRequest(image)) for f in (folder, new))
    assert np.array_equal(one.masks[0].mask, other.masks[0].mask)
    assert one.quality != other.quality and old.quality_head != manifest.quality_head
    assert "version 77" in (new / "README.md").read_text(encoding="utf-8")
    with pytest.raises(FileExistsError):
        store_with_head(folder, fitted, tmp_path / "models", "77")


def test_nothing_is_left_of_a_model_whose_new_head_does_not_fit(tmp_path: Path) -> None:
    folder = write_tiny_artifact(tmp_path)
    fitted = tmp_path / "fitted"
    fitted.mkdir()
    sha256 = write_quality_head(fitted / "quality_head.safetensors", make_head(features=16))
    limits = dict.fromkeys(QUALITY_LABELS, 0.6)
    record = {"sha256": sha256, "labels": QUALITY_LABELS, "limits": limits}
    (fitted / "quality_head.json").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"quality_head\.safetensors"):
        store_with_head(folder, fitted, tmp_path / "models", "77")
    assert not (tmp_path / "models").exists()


def test_damage_leaves_the_picture_where_it_was_and_says_what_is_hidden() -> None:
    xray = make_xray()
    hidden = []
    for number in range(60):
        image, is_hidden = damaged(xray.image, xray.mask, np.random.default_rng(number))
        assert image.shape == xray.image.shape and image.dtype == np.uint8
        assert not np.array_equal(image, xray.image)
        hidden.append(is_hidden)
    assert 8 < sum(hidden) < 30


def test_a_damaged_xray_does_not_claim_to_be_whole_or_the_right_way_round(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = [changed_xray(make_xray(), 64, np.random.default_rng(n)) for n in range(120)]
    monkeypatch.setattr(
        "training.quality.changes.damaged", lambda image, mask, rng: (image, rng.random() < 2)
    )
    halved = [changed_xray(make_xray(), 64, np.random.default_rng(n)) for n in range(120)]
    for name in ("cut_off", "mirrored"):
        place = QUALITY_LABELS.index(name)
        known = [sum(float(one.known[place]) for one in samples) for samples in (whole, halved)]
        assert known[1] < known[0]


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
