"""An acceptance passes when the data show it, counted by patient."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny_models import write_tiny_artifact
from training.__main__ import main
from training.data.dataset import DataRow
from training.errors import ConfigError
from training.evaluation.acceptance import Finding, Margins, judge
from training.evaluation.scores import BOXES, ImageScore
from training.phantom.dataset import write_phantom_dataset

MARGINS = Margins(mean=0.95, poor=0.90, poor_share=0.10)


def judged(dices: list[float], per_patient: int = 1) -> Finding:
    rows = [
        DataRow(str(i), "ward", "lung_field", Path(), Path(), f"patient {i // per_patient}")
        for i in range(len(dices))
    ]
    scores = [
        ImageScore(row.name, row.source, "model", box, dice, dice)
        for row, dice in zip(rows, dices, strict=True)
        for box in BOXES
    ]
    found = judge(scores, rows, MARGINS)
    assert found[0].mean == found[1].mean
    return found[0]


def test_many_good_patients_pass_and_few_do_not() -> None:
    good = [0.96, 0.97, 0.98, 0.965]
    assert judged(good * 10).passes
    few = judged(good)
    assert few.mean_passes and not few.poor_passes  # no poor mask of 4 may be 60 % of all
    assert few.poor == 0 and few.poor_share_at_most == pytest.approx(0.602, abs=1e-3)


def test_a_mean_just_above_the_margin_is_not_shown() -> None:
    spread_out = judged([0.92, 0.99] * 6)
    assert spread_out.mean > 0.95 and not spread_out.mean_passes


def test_patients_count_and_not_xrays() -> None:
    apart, together = judged([0.97] * 36 + [0.8] * 4), judged([0.97] * 36 + [0.8] * 4, 4)
    assert (apart.patients, apart.poor) == (40, 4)
    assert (together.patients, together.poor) == (10, 1)
    assert not judged([0.97], 1).mean_passes


def test_margins_are_shares() -> None:
    with pytest.raises(ConfigError, match="--poor-share is 10; it must lie within"):
        Margins(poor_share=10)


def test_the_page_says_fail_of_a_model_that_learned_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_phantom_dataset(tmp_path / "data", {"test": 4}, 96)
    model = write_tiny_artifact(tmp_path / "models")
    page = tmp_path / "page.html"
    command = ["acceptance", "--model", str(model), "--data", str(tmp_path / "data"), "--out",
               str(page), "--device", "cpu"]  # fmt: skip
    assert main(command) == 1
    told = capsys.readouterr().out
    assert "own_box: mean Dice" in told and f"fail: {page}" in told
    text = page.read_text()
    assert '<p class="verdict">fail</p>' in text and text.count("data:image/jpeg") == 4
    assert main([*command, "--limit", "1", "--mean", "2"]) == 2
