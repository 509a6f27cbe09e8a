"""From raw downloads to a mask over HTTP: every command of a researcher, once, in miniature.

Phantoms stand in for X-rays, in the layouts of Montgomery and Shenzhen. The model is too small to
be good; what is tested is that each command takes what the one before left.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.service.server_process import running_server
from model_store.predictor import PredictionRequest, Predictor
from tests import raw_downloads

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "training" / "configs"


def training(*arguments: str | Path) -> str:
    """Run one command as a researcher does, in a process of its own; returns what it printed."""
    command = [sys.executable, "-m", "training", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def run_stage(work: Path, stage: str, *extra: str | Path) -> dict[str, Any]:
    printed = training(
        stage, "--config", CONFIGS / f"miniature_{stage}.toml", "--run", work / stage,
        "--device", "cpu", "--set", f"data.root={work / 'data'}", *extra,
    )  # fmt: skip
    result: dict[str, Any] = json.loads(printed)
    return result


def test_from_raw_downloads_to_a_mask_over_http(tmp_path: Path) -> None:
    raw_downloads.montgomery(tmp_path / "raw" / "montgomery", 12)
    raw_downloads.shenzhen(tmp_path / "raw" / "shenzhen", 12)
    data, models = tmp_path / "data", tmp_path / "models"
    printed = training(
        "prepare", "--source", "montgomery", "--root", tmp_path / "raw" / "montgomery",
        "--source", "shenzhen", "--root", tmp_path / "raw" / "shenzhen", "--out", data,
    )  # fmt: skip
    assert "montgomery" in printed and "shenzhen" in printed

    longer = ["--set", "steps=100", "--set", "optimizer.ema_decay=0.9"]
    run_stage(tmp_path, "pretrain", *longer)
    run_stage(tmp_path, "stage1", "--base", tmp_path / "pretrain")
    trained = run_stage(tmp_path, "stage2", "--base", tmp_path / "stage1")
    assert set(trained["own_box"]) == {"montgomery", "shenzhen"}
    assert min(trained["own_box"].values()) > 0.6

    export: list[str | Path] = ["export", "--version", "1", "--out", models, "--data", data]
    training(*export, "--run", tmp_path / "stage1", "--name", "mini-float")
    training(
        *export, "--run", tmp_path / "stage2", "--name", "mini", "--float-twin", "mini-float/1"
    )
    model = models / "mini" / "1"

    table = training("evaluate", "--model", model, "--data", data, "--split", "test", "--store",
                     "--device", "cpu")  # fmt: skip
    assert " int8 " in table and " fp32 " in table
    page = tmp_path / "report.html"
    training("report", model, "--data", data, "--split", "test", "--out", page, "--device", "cpu")
    assert "mini" in page.read_text() and page.stat().st_size > 100_000

    picture = np.asarray(Image.open(next((data / "test" / "images").iterdir())))
    predictor = Predictor.load(model, "cpu")
    expected = predictor.predict(PredictionRequest(picture, (), "lung_field")).masks[0].mask
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    with running_server(model, ["--threads", "1"]) as server:
        answer = server.segment(buffer.getvalue(), {}, accept="image/png")
    assert answer.status == 200, answer.body
    served = np.asarray(Image.open(io.BytesIO(answer.body))) > 0
    assert np.array_equal(served, expected) and 0.01 < served.mean() < 0.99
