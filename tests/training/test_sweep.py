"""Search over settings: what is asked is read, and Ray Tune runs real trainings."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from training.__main__ import main
from training.commands.sweep import _parsed
from training.errors import ConfigError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("log:1e-4:1e-2", ("log", [1e-4, 1e-2])),
        ("int:1:9", ("int", [1, 9])),
        ("choice:8,16", ("choice", ["8", "16"])),
    ],
)
def test_a_search_is_read(text: str, found: tuple[str, list[object]]) -> None:
    assert _parsed(text) == found


@pytest.mark.parametrize("text", ["normal:0:1", "log:0:1", "log:1", "int:5:5", "uniform:a:b"])
def test_a_search_that_makes_no_sense_is_named(text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        _parsed(text)


def test_trials_are_trainings_and_the_best_is_told(tmp_path: Path) -> None:
    counts = ["--train", "8", "--val", "4", "--test", "1"]
    assert main(["phantoms", "--out", str(tmp_path / "data"), *counts]) == 0
    command = [sys.executable, "-m", "training", "sweep", "--stage", "pretrain"]
    command += ["--config", str(ROOT / "training" / "configs" / "miniature_pretrain.toml")]
    command += ["--out", str(tmp_path / "sweep"), "--trials", "2", "--cpus-per-trial", "1"]
    command += ["--set", f"data.root={tmp_path / 'data'}", "--set", "data.workers=0"]
    command += ["--search", "optimizer.learning_rate=log:1e-4:1e-2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.strip().splitlines()[-1])
    assert (told["done"], told["failed"]) == (2, 0)
    trials = json.loads((tmp_path / "sweep" / "sweep.json").read_text())["trials"]
    rates = {one["settings"]["optimizer.learning_rate"] for one in trials}
    assert len(rates) == 2 and all(1e-4 <= rate <= 1e-2 for rate in rates)
    assert trials[0]["selection"] == told["best"]["selection"] >= trials[1]["selection"]
