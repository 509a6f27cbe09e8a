"""Distributions and groups of X-rays are those that can be counted, and stand in the card."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model_store.artifact import read_manifest
from tests.tiny_models import write_tiny_artifact
from training.__main__ import main
from training.data.unlabelled import read_unlabelled
from training.errors import DataError
from training.evaluation.population import SegmentedXray, distributions, group_of, groups
from training.phantom.dataset import write_phantom_dataset


def segmented(
    patient: str, dice: float | None, source: str = "s", confidence: float = 0.97
) -> SegmentedXray:
    return SegmentedXray(source, patient, 100.0, 400, confidence, 0.3, dice)


def test_a_patient_counts_once() -> None:
    found = [
        segmented("a", 0.9),
        segmented("a", 0.7),
        segmented("b", 0.95),
        segmented("c", 0.5, "young"),
    ]
    lines = {line["group"]: line for line in groups(found, ["young"])}
    assert lines["children"]["n"] == 1 and lines["adults"]["n"] == 3
    assert lines["each patient's mean"]["n"] == 3
    assert lines["each patient's mean"]["dice_mean"] == pytest.approx(
        (0.8 + 0.95 + 0.5) / 3, abs=1e-4
    )
    assert lines["... with several X-rays"]["dice_lowest"] == pytest.approx(0.8)


def test_xrays_that_nobody_annotated_have_no_dice() -> None:
    line = group_of("AP", [segmented("a", None, confidence=0.93), segmented("b", None)])
    assert line == {"group": "AP", "n": 2, "confidence_median": 0.95, "undecided": 0.5}


def test_distributions_are_those_of_numpy() -> None:
    rng = np.random.default_rng(0)
    values = rng.random(200)
    found = distributions([SegmentedXray("s", "p", v, 5, v, v, None) for v in values])
    one = found["confidence"]
    assert one.n == 200 and one.mean == pytest.approx(values.mean(), abs=1e-5)
    assert one.deviation == pytest.approx(values.std(), abs=1e-5)
    assert one.quantiles["0.95"] == pytest.approx(np.quantile(values, 0.95), abs=1e-5)
    assert found["pixels"].quantiles["0.5"] == 5


def test_the_command_writes_manifest_and_card_and_leaves_the_weights(tmp_path: Path) -> None:
    data, unlabelled = tmp_path / "data", tmp_path / "more"
    write_phantom_dataset(data, {"train": 3, "val": 2, "test": 2})
    (unlabelled / "images").mkdir(parents=True)
    Image.fromarray(np.arange(4096, dtype=np.uint8).reshape(64, 64)).save(
        unlabelled / "images" / "one.jpg"
    )
    turned = Image.fromarray(np.tile(np.arange(64, dtype=np.uint16) * 900, (48, 1)))
    turned.save(unlabelled / "images" / "two.tif")  # 16 bits, as the service reads them
    # As Excel writes it: a byte order mark and semicolons.
    with (unlabelled / "manifest.csv").open("w", newline="", encoding="utf-8-sig") as file:
        rows = [["name", "projection", "patient"], ["one", "ap", "p"], ["two", "ap", ""]]
        csv.writer(file, delimiter=";").writerows(rows)
    folder = write_tiny_artifact(tmp_path / "model")
    before = read_manifest(folder)
    words = ["--model", str(folder), "--data", str(data), "--unlabelled", str(unlabelled)]
    assert main(["population", *words, "--count", "1", "--device", "cpu", "--store"]) == 0
    after = read_manifest(folder)
    assert after.weights == before.weights
    spread = after.training_distributions
    assert set(spread) == {"grey_level", "pixels", "confidence", "area_ratio"}
    assert spread["pixels"].n == 2
    lines = {line["group"]: line for line in after.evaluation["test"]["groups"]}
    assert lines["adults"]["n"] == 2 and lines["AP, `lung_field`, nobody annotated"]["n"] == 2
    assert main(["population", *words, "--only", "groups", "--store", "--device", "cpu"]) == 0
    assert read_manifest(folder).training_distributions == spread
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "| AP, `lung_field`, nobody annotated | 2 |" in card


@pytest.mark.parametrize(
    ("rows", "refusal"),
    [
        ("", "lacks the columns name, projection"),
        ("name,projection\n", "names no X-rays"),
        ("name,patient\none,p\n", "lacks the columns projection"),
        ("name,projection\nelsewhere,ap\n", "line 2: .* holds no X-ray elsewhere"),
        ("name,projection\none,ap\none,pa\n", "line 3: one comes twice"),
    ],
)
def test_a_folder_that_does_not_fit_is_refused_by_name(
    tmp_path: Path, rows: str, refusal: str
) -> None:
    (tmp_path / "images").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "images" / "one.png")
    (tmp_path / "manifest.csv").write_text(rows, encoding="utf-8")
    with pytest.raises(DataError, match=refusal):
        read_unlabelled(tmp_path, ("projection",))
