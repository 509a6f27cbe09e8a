import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from model_store.predictor import PredictionRequest, Predictor
from training.__main__ import main
from training.data.dataset import load_xray, read_rows
from training.errors import DataError
from training.evaluation.box_jitter import JITTERS, jitter_labels, moved_box, score_jitter
from training.evaluation.evaluation import EvaluationOptions, evaluate
from training.evaluation.probability_maps import compare_maps, probability_map
from training.evaluation.scores import (
    ImageScore,
    pixel_spacings,
    prompt_boxes,
    score_mask,
    score_rows,
    values_of,
)
from training.evaluation.tables import compare_models, summarise
from training.evaluation.text import format_evaluation
from training.phantom.dataset import write_phantom_dataset


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("phantoms")
    write_phantom_dataset(root, {"val": 4}, longest_side=96)
    return root


@pytest.fixture(scope="module")
def predictor(tiny_artifact: Path) -> Predictor:
    return Predictor.load(tiny_artifact, "cpu")


def test_scores_of_each_box_and_image(predictor: Predictor, phantoms: Path) -> None:
    rows = read_rows(phantoms, "val")
    shallow = score_rows(predictor, "int8", rows)
    assert [(s.name, s.box) for s in shallow[:2]] == [
        (rows[0].name, "own_box"), (rows[0].name, "whole_image"),
    ]  # fmt: skip
    assert values_of(shallow, "nsd") is None
    deep = score_rows(predictor, "int8", rows, surface=True)
    assert [(s.dice, s.iou) for s in deep] == [(s.dice, s.iou) for s in shallow]
    assert {s.unit for s in deep} == {"px at 512"}
    assert values_of(deep, "hd95") is not None


def test_a_perfect_mask_and_a_miss(phantoms: Path) -> None:
    xray = load_xray(read_rows(phantoms, "val")[0])
    perfect = score_mask(xray.mask, xray, "m", "own_box", surface=True)
    assert dataclasses.astuple(perfect)[4:9] == (1.0, 1.0, 1.0, 0.0, 0.0)
    missed = score_mask(np.zeros_like(xray.mask), xray, "m", "own_box", surface=True)
    diagonal = np.hypot(*xray.mask.shape) * 512 / max(xray.mask.shape)
    assert dataclasses.astuple(missed)[4:9] == pytest.approx((0, 0, 0, diagonal, diagonal))
    table = summarise([perfect, dataclasses.replace(missed, name="other")])
    spread = table[xray.source]["own_box"]["m"]
    assert spread["nsd"]["n"] == 2 and spread["nsd"]["mean"] == 0.5
    assert spread["hd95"]["unit"] == "px at 512"


def test_a_source_is_measured_in_mm_when_all_of_it_can_be(phantoms: Path) -> None:
    rows = read_rows(phantoms, "val")
    known = [dataclasses.replace(row, spacing_mm=0.5) for row in rows]
    assert set(pixel_spacings(known).values()) == {0.5}
    mixed = [*known[:2], rows[2], known[3]]  # the third shares its source with the first
    assert pixel_spacings(mixed) == {
        rows[0].name: None, rows[1].name: 0.5, rows[2].name: None, rows[3].name: 0.5,
    }  # fmt: skip


def test_spacing_is_read_from_the_manifest(phantoms: Path, tmp_path: Path) -> None:
    lines = (phantoms / "manifest.csv").read_text().splitlines()
    header, first, second = f"{lines[0]},spacing_mm", f"{lines[1]},0.2", f"{lines[2]},"
    (tmp_path / "manifest.csv").write_text("\n".join([header, first, second]))
    assert [row.spacing_mm for row in read_rows(tmp_path, "val")] == [0.2, None]
    for wrong in ("-1", "wide", "inf", "nan"):
        (tmp_path / "manifest.csv").write_text(f"{header}\n{lines[1]},{wrong}")
        with pytest.raises(DataError, match=f"spacing_mm is '{wrong}'"):
            read_rows(tmp_path, "val")


def test_the_probability_map_is_the_mask_before_the_threshold(
    predictor: Predictor, phantoms: Path
) -> None:
    for row in read_rows(phantoms, "val"):
        xray = load_xray(row)
        boxes = prompt_boxes(xray)
        answers = predictor.predict(PredictionRequest(xray.image, boxes, row.convention)).masks
        for box, answer in zip(boxes, answers, strict=True):
            found = probability_map(predictor.model, xray, box, 64)
            assert np.array_equal(found > 0.5, answer.mask)


def test_a_model_is_fully_similar_to_itself(predictor: Predictor, phantoms: Path) -> None:
    rows = read_rows(phantoms, "val")
    found = compare_maps(predictor.model, predictor.model, rows, 64)
    assert {s.whole for group in found.values() for s in group} == {1.0}


def test_the_jitters_are_those_that_are_reported() -> None:
    assert jitter_labels() == ["0%", "5%", "10%", "20%", "whole_image"]


def test_moved_boxes_stay_within_the_stated_share() -> None:
    rng = np.random.default_rng(0)
    box, bounds = (20.0, 30.0, 80.0, 70.0), (0.0, 0.0, 100.0, 100.0)
    moved = np.array([moved_box(box, 0.2, bounds, rng) for _ in range(500)])
    reach = np.array([12, 8, 12, 8])
    assert (abs(moved - box) <= reach).all()
    assert (abs(moved - box).max(axis=0) > 0.9 * reach).all()
    assert moved_box(box, 0.0, bounds, rng) == box


def test_jitter_is_seeded_and_starts_at_the_own_box(predictor: Predictor, phantoms: Path) -> None:
    rows = read_rows(phantoms, "val")
    table = score_jitter(predictor, rows)
    assert table == score_jitter(predictor, rows)
    assert table != score_jitter(predictor, rows, seed=1)
    alone = score_jitter(predictor, rows[:1])  # a box does not depend on the other X-rays
    rest = score_jitter(predictor, rows[2:3])
    source = rows[0].source
    means = [t[source]["20%"]["mean"] for t in (alone, rest)]
    assert table[source]["20%"]["mean"] == pytest.approx(np.mean(means))
    own = summarise(score_rows(predictor, "int8", rows))
    for source, found in table.items():
        assert list(found) == jitter_labels() and len(found) == len(JITTERS) + 1
        assert found["0%"]["mean"] == own[source]["own_box"]["int8"]["dice"]["mean"]
        assert found["whole_image"]["mean"] == own[source]["whole_image"]["int8"]["dice"]["mean"]
        assert found["5%"]["n"] == 3 * found["0%"]["n"]


def test_models_are_paired_by_image() -> None:
    scores = [
        ImageScore(name, "s", model, "own_box", value, value)
        for model, values in (("a", {"x": 0.9, "y": 0.8}), ("b", {"y": 0.7, "x": 0.9}))
        for name, value in values.items()
    ]
    scores += [dataclasses.replace(s, box="whole_image") for s in scores]
    found = compare_models(scores, "a", "b")["s"]["own_box"]
    assert found["mean"] == pytest.approx(0.05)
    assert found["lowest"] == pytest.approx(0.0)
    with pytest.raises(ValueError, match="other images of s"):
        compare_models(scores[:-1], "a", "b")


def test_every_table_is_printed_when_asked_for(predictor: Predictor, phantoms: Path) -> None:
    rows = read_rows(phantoms, "val")
    shallow = format_evaluation(evaluate(predictor, None, rows, EvaluationOptions()))
    assert "Dice mean" in shallow and "hd95" not in shallow
    full = EvaluationOptions(surface=True, similarity=True, jitter=True)
    deep = format_evaluation(evaluate(predictor, predictor, rows, full))
    for words in ("hd95 (px at 512)", "Wilcoxon p", "SSIM, whole", "20%", "95 % interval"):
        assert words in deep


def test_a_limit_measures_a_part_of_each_source_and_says_how_far_it_is(
    phantoms: Path, tiny_artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = tmp_path / "scores.json"
    command = ["evaluate", "--model", str(tiny_artifact), "--data", str(phantoms)]
    command += ["--device", "cpu", "--limit", "1", "--json", str(written)]
    assert main(command) == 0
    sources = {row.source for row in read_rows(phantoms, "val")}
    names = {score["name"] for score in json.loads(written.read_text())}
    assert len(names) == len(sources) < len(read_rows(phantoms, "val"))
    assert "int8" in (shown := capsys.readouterr().err) and "100%" in shown


@pytest.mark.parametrize("command", ["evaluate --model", "report"])
def test_a_part_of_a_split_is_never_stored_as_the_whole(
    command: str, phantoms: Path, tiny_artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (tiny_artifact / "manifest.json").read_bytes()
    asked = [*command.split(), str(tiny_artifact), "--data", str(phantoms), "--device", "cpu"]
    assert main([*asked, "--limit", "1", "--store"]) == 2
    assert "--limit 1 measures a part of the split" in capsys.readouterr().err
    assert main([*asked, "--limit", "-1"]) == 2
    assert "--limit is -1" in capsys.readouterr().err
    assert (tiny_artifact / "manifest.json").read_bytes() == before
