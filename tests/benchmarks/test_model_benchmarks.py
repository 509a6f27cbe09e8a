"""Benchmarks that ask stored models about X-rays: what they count, on phantoms and tiny models."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.quality.sloppy_boxes import (
    COUNTS,
    HALF,
    JITTERS,
    count_one_lung,
    count_warnings,
)
from benchmarks.quality.two_models import compare
from benchmarks.quality.undecided_masks import against_people, ask, confidences
from model_store.predictor import Predictor
from tests.tiny_models import write_tiny_artifact
from training.phantom.dataset import write_phantom_dataset


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("asked") / "data"
    write_phantom_dataset(folder, {"train": 1, "val": 3}, longest_side=96)
    return folder


def test_two_models_are_set_beside_people(data: Path, tiny_artifact: Path, tmp_path: Path) -> None:
    one = Predictor.load(tiny_artifact, "cpu")
    other = Predictor.load(write_tiny_artifact(tmp_path, seed=5), "cpu")
    same = compare(one, one, data, "val", most=1000)
    assert sum(row.n for row in same) == 3
    assert all(row.both == 1.0 and row.first == row.second for row in same)
    apart = compare(one, other, data, "val", most=1)
    assert all(row.n == 1 and row.both < 1 for row in apart)
    assert [row.first for row in apart] != [row.second for row in apart]


def test_every_moved_box_is_counted_once(data: Path, tiny_artifact: Path) -> None:
    table = count_warnings(Predictor.load(tiny_artifact, "cpu"), data, "val", draws=2)
    assert [counts["masks"] for counts in table.values()] == [3, *[6] * (len(JITTERS) - 1)]
    for counts in table.values():
        assert set(counts) == set(COUNTS)
        assert counts["of these warned"] <= counts["poor by the box"] <= counts["poor"]
    assert table["0%"]["poor by the box"] == 0  # the tight box cannot be worse than itself


def test_boxes_of_one_lung_are_counted_for_each_lung(data: Path, tiny_artifact: Path) -> None:
    table = count_one_lung(Predictor.load(tiny_artifact, "cpu"), data, "val")
    masks = {name: counts["masks"] for name, counts in table.items()}
    assert masks == {"tight": 6, "10%": 12, "20%": 12, HALF: 6}
    assert table["tight"]["poor by the box"] == 0


def test_confidence_is_asked_in_both_conventions(data: Path, tiny_artifact: Path) -> None:
    predictor = Predictor.load(tiny_artifact, "cpu")
    answers = ask(predictor, data, "val", count=2)  # two of one source and one of another
    assert [one.convention for one in answers] == ["lung_field", "whole_lung"] * 3
    known = [one for one in answers if one.dice is not None]
    assert len(known) == 3  # an annotator draws by one of the two
    table = confidences(answers)
    assert sum(row["n"] for row in table) == 6
    assert sum(row["drawn by people"] for row in table) == 3
    for row in table:
        assert 0 <= row["1st pc"] <= row["5th pc"] <= row["median"] <= 1
    guesses = [one for one in answers if one.confidence < 0.94 and "empty_mask" not in one.codes]
    assert guesses  # random weights know nothing
    assert all("undecided_mask" in one.codes for one in guesses)
    beside = against_people(answers)
    assert sum(row["n"] for row in beside) == 3
    assert sum(row["poor"] for row in beside) == 3  # random weights draw no lungs
    assert sum(row["of these warned"] for row in beside) == 3
    assert sum(row["of these undecided"] for row in beside) == sum(
        "undecided_mask" in one.codes for one in known
    )
    assert all(row["ranks, score"] is None for row in beside)  # two masks have no ranks
