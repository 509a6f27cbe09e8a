"""Masks drawn in another convention than stated: the rule, the table, the command, real X-rays."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model_store.conventions import CONVENTIONS
from model_store.model_index import default_model_folder
from model_store.predictor import PredictionRequest, Predictor
from training.__main__ import main
from training.data.config import DataConfig
from training.data.dataset import DataRow, fold_of, load_xray, read_rows
from training.errors import DataError
from training.evaluation.convention_mismatch import (
    MARGIN,
    Agreement,
    agreements,
    format_agreements,
    mismatched_names,
    write_agreements,
)
from training.evaluation.metrics import dice
from training.evaluation.scores import prompt_boxes
from training.phantom.dataset import write_phantom_dataset
from training.run.selection import load_training_xrays


def agreement(name: str, field: float, whole: float, source: str = "a") -> Agreement:
    return Agreement(name, source, "lung_field", {"lung_field": field, "whole_lung": whole})


def test_otherwise_means_better_by_the_margin() -> None:
    assert agreement("heart in", 0.86, 0.93).nearest == "whole_lung"
    assert agreement("heart in", 0.86, 0.93).is_otherwise(0.02)
    assert agreement("just", 0.5, 0.75).is_otherwise(0.25)
    assert not agreement("hard to tell", 0.93, 0.94).is_otherwise(0.02)
    assert not agreement("as stated", 0.97, 0.90).is_otherwise(0.02)
    stated = Agreement("n", "a", "whole_lung", {"lung_field": 0.9, "whole_lung": 0.8})
    assert stated.is_otherwise(0.05) and stated.nearest == "lung_field"


def test_the_table_counts_each_data_set_with_and_without_them(tmp_path: Path) -> None:
    found = [agreement("x", 0.80, 0.95), agreement("y", 0.90, 0.85), agreement("z", 0.96, 0.90)]
    found.append(agreement("alone", 0.5, 0.9, source="b"))
    first, second = format_agreements(found, 0.02).splitlines()[2:4]
    assert first.split() == ["a", "3", "0.8867", "0.8100", "1", "0.9300", "0.9030"]
    assert second.split() == ["b", "1", "0.5000", "0.5000", "1", "-", "-"]
    assert format_agreements(found, 0.02).splitlines()[4:] == [
        "a x: stated lung_field 0.800, whole_lung 0.950",
        "b alone: stated lung_field 0.500, whole_lung 0.900",
    ]
    write_agreements(tmp_path / "drawn.csv", found, 0.02)
    with (tmp_path / "drawn.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["convention_mismatch"] for row in rows] == ["yes", "no", "no", "yes"]
    assert rows[0] == {
        "name": "x", "source": "a", "stated": "lung_field", "nearest": "whole_lung",
        "dice_lung_field": "0.8000", "dice_whole_lung": "0.9500", "convention_mismatch": "yes",
    }  # fmt: skip


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("phantoms")
    write_phantom_dataset(root, {"val": 4}, longest_side=96)
    return root


def test_each_convention_is_predicted_with_the_masks_own_box(
    tiny_artifact: Path, phantoms: Path
) -> None:
    predictor = Predictor.load(tiny_artifact, "cpu")
    rows = read_rows(phantoms, "val")
    found = list(agreements(predictor, rows))
    assert [(one.name, one.stated) for one in found] == [(r.name, r.convention) for r in rows]
    for one, row in zip(found, rows, strict=True):
        xray = load_xray(row)
        for convention in CONVENTIONS:
            request = PredictionRequest(xray.image, prompt_boxes(xray)[:1], convention)
            assert one.dice[convention] == dice(predictor.predict(request).masks[0].mask, xray.mask)
        assert set(one.dice) == set(CONVENTIONS)


def test_the_command_prints_and_writes(
    tiny_artifact: Path, phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "drawn.csv"
    command = ["conventions", "--model", str(tiny_artifact), "--data", str(phantoms)]
    assert main([*command, "--out", str(out), "--device", "cpu"]) == 0
    assert "otherwise" in capsys.readouterr().out
    assert len(out.read_text().splitlines()) == 5
    assert main([*command, "--margin", "0"]) == 2
    assert "--margin is 0.0; it must lie between 0 and 1" in capsys.readouterr().err
    assert main([*command, "--fold", "2", "--folds", "2"]) == 2
    assert "--fold 2 is not one of --folds 2" in capsys.readouterr().err


def test_folds_are_looked_at_one_by_one(
    tiny_artifact: Path, phantoms: Path, tmp_path: Path
) -> None:
    command = ["conventions", "--model", str(tiny_artifact), "--data", str(phantoms)]
    looked_at: list[str] = []
    for fold in range(2):
        out = tmp_path / f"{fold}.csv"
        assert main([*command, "--folds", "2", "--fold", str(fold), "--out", str(out)]) == 0
        with out.open(newline="") as file:
            names = [row["name"] for row in csv.DictReader(file)]
        assert all(fold_of(name, 2) == fold for name in names)
        looked_at += names
    assert sorted(looked_at) == sorted(row.name for row in read_rows(phantoms, "val"))


def test_what_was_convention_mismatch_does_not_train(tmp_path: Path) -> None:
    write_phantom_dataset(tmp_path, {"train": 4, "val": 1}, longest_side=48)
    first, second, *others = (row.name for row in read_rows(tmp_path, "train"))
    lists = [tmp_path / "fold_0.csv", tmp_path / "fold_1.csv"]
    write_agreements(lists[0], [agreement(first, 0.8, 0.9), agreement(others[0], 0.9, 0.8)], MARGIN)
    write_agreements(lists[1], [agreement(second, 0.8, 0.9)], MARGIN)
    assert mismatched_names(lists) == {first, second}
    paths = tuple(map(str, lists))
    trained = load_training_xrays(DataConfig(str(tmp_path), convention_mismatch=paths))
    assert [xray.name for xray in trained] == others
    write_agreements(lists[0], [agreement(name, 0.8, 0.9) for name in (first, *others)], MARGIN)
    with pytest.raises(DataError, match="convention_mismatch leaves nothing to train on"):
        load_training_xrays(DataConfig(str(tmp_path), convention_mismatch=paths))


def test_a_list_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere.csv cannot be read"):
        mismatched_names([tmp_path / "nowhere.csv"])
    other = tmp_path / "other.csv"
    other.write_text("name,split\nx,train\n")
    with pytest.raises(DataError, match=r"other.csv is not a list of `training conventions`"):
        mismatched_names([other])


def test_masks_that_take_the_heart_in_are_found(xray_root: Path, tmp_path: Path) -> None:
    """Lung plus heart, as some annotators of lung fields drew it, in every second X-ray."""
    hearts = xray_root / "wingspan_parts" / "heart"
    rows = [
        row
        for row in read_rows(xray_root / "cxr", "val")
        if row.source == "montgomery" or (hearts / f"{row.name}.png").is_file()
    ]
    with_heart = [row.name for row in rows if row.source == "wingspan"][::2]
    changed = [
        dataclasses.replace(row, mask_path=lung_and_heart(row, hearts, tmp_path))
        if row.name in with_heart
        else row
        for row in rows
    ]
    predictor = Predictor.load(default_model_folder(), "cpu")
    otherwise = [one.name for one in agreements(predictor, changed) if one.is_otherwise(MARGIN)]
    assert (len(rows), len(with_heart)) == (28, 9)
    assert otherwise == with_heart


def lung_and_heart(row: DataRow, hearts: Path, folder: Path) -> Path:
    """Write the mask of an X-ray again with its heart in it."""
    with Image.open(row.mask_path) as lungs, Image.open(hearts / f"{row.name}.png") as heart:
        both = np.asarray(lungs.convert("L")) | np.asarray(heart.convert("L"))
    path = folder / f"{row.name}.png"
    Image.fromarray(both).save(path)
    return path


def test_a_list_of_a_former_version_is_read(tmp_path: Path) -> None:
    former = tmp_path / "former.csv"
    former.write_text("name,stated,drawn_otherwise\nx,lung_field,yes\ny,lung_field,no\n")
    assert mismatched_names([former]) == {"x"}
