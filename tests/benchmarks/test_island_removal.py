"""The table of what `islands=drop` removes counts pixels, and whose side people are on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from benchmarks.quality import island_removal
from benchmarks.quality.island_removal import Asked, lines_of, removal, write_worst
from model_store.prediction import MaskPrediction, Prediction, PredictionRequest
from model_store.predictor import Predictor
from model_store.structures import LUNGS
from training.phantom.dataset import write_phantom_dataset

Mask = NDArray[np.bool_]


def lungs() -> Mask:
    mask = np.zeros((120, 100), bool)
    mask[20:100, 10:40] = mask[20:100, 60:90] = True
    return mask


class Answering:
    """Stands for a model: its mask lies in the picture's own grey values."""

    def predict(self, request: PredictionRequest) -> Prediction:
        mask = request.image > 0
        one = MaskPrediction((0.0, 0.0, 100.0, 120.0), mask, 0.9, 0.9, LUNGS)
        return Prediction((one,), {}, None)


MODEL = cast(Predictor, Answering())


def asked(mask: Mask, truth: Mask | None, name: str = "x") -> Asked:
    return Asked("here", name, mask.astype(np.uint8) * 255, "lung_field", LUNGS, truth)


def with_island(size_px: int) -> Mask:
    mask = lungs()
    mask[2 : 2 + size_px, 2 : 2 + size_px] = True
    return mask


def test_an_island_that_people_left_out_makes_the_mask_better_when_removed() -> None:
    found = removal(MODEL, asked(with_island(5), lungs()))
    assert found.removed_px == 25 and found.right_px == 0
    assert found.share == 25 / with_island(5).sum()
    assert found.before is not None and found.before < 1.0 == found.after


def test_an_island_that_people_annotated_makes_it_worse() -> None:
    truth = with_island(5)
    (line,) = lines_of([removal(MODEL, asked(truth, truth))])
    assert (line.n, line.lose, line.removed_px) == (1, 1, 25)
    assert line.right_share == 1.0 and line.before == 1.0
    assert (line.better, line.worse) == (0, 1)


def test_a_mask_without_islands_loses_nothing_and_counts_as_neither() -> None:
    kept, lost = asked(lungs(), lungs()), asked(with_island(5), lungs())
    (line,) = lines_of([removal(MODEL, one) for one in (kept, lost)])
    assert (line.n, line.lose, line.better, line.worse) == (2, 1, 1, 0)
    assert line.largest_share == pytest.approx(25 / with_island(5).sum())


def test_masks_that_nobody_annotated_have_no_scores() -> None:
    found = removal(MODEL, asked(with_island(5), None))
    (line,) = lines_of([found])
    assert line.lose == 1 and line.before is line.after is line.right_share is None


def test_the_worst_are_pictured_with_what_is_removed_in_red(tmp_path: Path) -> None:
    few, more, none = (
        removal(MODEL, asked(mask, lungs(), name))
        for name, mask in (("few", with_island(4)), ("more", with_island(9)), ("none", lungs()))
    )
    said = write_worst([few, more, none], tmp_path / "pictures")
    names = [path.name for path in sorted((tmp_path / "pictures").iterdir())]
    assert names == ["01_more_lung_field.png", "02_few_lung_field.png"]
    assert said[0].startswith("01_more") and "81 px" in said[0]
    with Image.open(tmp_path / "pictures" / names[0]) as opened:
        pixels = np.asarray(opened.convert("RGB")).astype(int)
    red = (pixels[..., 0] > 150) & (pixels[..., 1] < 100)
    rows, columns = np.nonzero(red)
    assert len(rows) and rows.max() < 60 and columns.max() < 60  # at the island, nowhere else


def test_the_command_prints_every_data_set_and_view(
    tmp_path: Path, tiny_artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, portable = tmp_path / "data", tmp_path / "portable"
    write_phantom_dataset(data, {"train": 1, "val": 2}, longest_side=96)
    (portable / "images").mkdir(parents=True)
    Image.fromarray(np.tile(np.arange(90, dtype=np.uint8), (80, 1))).save(portable / "images/a.png")
    (portable / "manifest.csv").write_text("name,patient,projection\na,p,ap\n", encoding="utf-8")
    arguments = ["--data", str(data), "--unlabelled", str(portable), "--model", str(tiny_artifact)]
    assert island_removal.main(arguments) == 0
    lines = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert sum(one["n"] for one in lines if one["before"] is not None) == 2
    own = [(one["group"], one["mask"], one["n"]) for one in lines if one["before"] is None]
    assert own == [("AP", "lung_field", 1), ("AP", "whole_lung", 1)]
