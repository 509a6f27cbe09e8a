"""The weekly report on drift: read from an audit log, by the limits of the alerts."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from model_store.artifact import read_manifest
from model_store.model_index import default_model_folder
from service import drift_comparison as limits
from service.drift_report import EXIT_DIFFERS, EXIT_UNREADABLE, main
from tests.service.fake_model import form, make_app, picture, running

UNTIL = datetime(2027, 2, 1, tzinfo=UTC)
MANIFEST = read_manifest(default_model_folder())
RULES = Path(__file__).parents[2] / "deploy/prometheus/rules.yml"
Change = Callable[[dict[str, Any]], None]


def entry(number: int, days_ago: float) -> dict[str, Any]:
    """An answer about an X-ray from the middle of what trained."""
    draw = random.Random(number)
    known = MANIFEST.training_distributions

    def between(name: str) -> float:
        quantiles = known[name].quantiles
        return draw.uniform(quantiles["0.25"], quantiles["0.75"])

    return {
        "event": "segment",
        "outcome": "answered",
        "time": (UNTIL - timedelta(days=days_ago)).isoformat(),
        "key": "ct-room",
        "model_sha256": MANIFEST.weights.sha256,
        "threshold": 0.5,
        "boxes": [],
        "clip": False,
        "image": {"width": 2000, "height": 2500, "grey_level": between("grey_level")},
        "lungs_found": [{"confidence": between("confidence"), "area_ratio": between("area_ratio")}],
        "warnings": [],
    }


def written(folder: Path, change: Change = lambda one: None, now: int = 150) -> Path:
    """A log of four weeks, 150 X-rays each; those of the last one are changed."""
    lines = []
    for number in range(450 + now):
        is_now = number >= 450
        one = entry(number, 3 if is_now else 8 + number % 20)
        if is_now:
            change(one)
        lines.append(json.dumps(one))
    (folder / "audit.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def report(folder: Path, *flags: str) -> int:
    return main([str(folder), "--until", UNTIL.isoformat(), *flags])


def test_weeks_alike_differ_in_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report(written(tmp_path)) == 0
    said = capsys.readouterr().out
    assert "150 answers; 450 in the time before" in said
    assert "Nothing differs." in said and "age, sex, view and device" in said
    assert re.search(r"\| pixels \| 150 \| 5000000 \| 5000000 \|", said)


def darker(one: dict[str, Any]) -> None:
    one["image"]["grey_level"] = 40.0


def small(one: dict[str, Any]) -> None:
    one["image"] |= {"width": 128, "height": 128}


def undecided(one: dict[str, Any]) -> None:
    one["lungs_found"][0]["confidence"] = 0.7
    one["warnings"] = ["undecided_mask"]


def larger_lungs(one: dict[str, Any]) -> None:
    """Inside of what trained, and not as before."""
    one["lungs_found"][0]["area_ratio"] = 0.4


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (darker, ["grey level: 100% lie outside", "grey level: moved by 1.00"]),
        (small, ["pixels: 100% lie outside"]),
        (undecided, ["confidence: 100% lie", "warned of (look, refuse): 100% of the answers"]),
        (larger_lungs, ["share that is lung: moved by"]),
    ],
)
def test_what_differs_is_said_by_number(
    change: Change, said: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report(written(tmp_path, change)) == EXIT_DIFFERS
    found = capsys.readouterr().out
    for sentence in said:
        assert f"DIFFERS: {sentence}" in found


def test_of_few_xrays_nothing_is_said(tmp_path: Path) -> None:
    assert report(written(tmp_path, darker, now=limits.LEAST_XRAYS - 1)) == 0


def test_lungs_in_boxes_are_no_whole_image(tmp_path: Path) -> None:
    def boxed(one: dict[str, Any]) -> None:
        one["boxes"] = [[0, 0, 100, 100]]
        one["lungs_found"][0]["area_ratio"] = 0.01

    assert report(written(tmp_path, boxed)) == 0


def test_what_is_not_compared_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def older(one: dict[str, Any]) -> None:
        del one["image"], one["lungs_found"], one["clip"]

    def by_another(one: dict[str, Any]) -> None:
        one["model_sha256"] = "0" * 64

    assert report(written(tmp_path, older)) == 0
    assert "150 answers have no size and grey level" in capsys.readouterr().out
    assert report(written(tmp_path, by_another)) == EXIT_UNREADABLE
    assert report(written(tmp_path), "--key", "nobody") == EXIT_UNREADABLE
    assert "no answer of this model" in capsys.readouterr().err
    assert report(tmp_path / "absent") == EXIT_UNREADABLE
    assert report(tmp_path, "--model", str(tmp_path)) == EXIT_UNREADABLE


@pytest.mark.anyio
async def test_it_reads_what_the_service_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = tmp_path / "key"
    key.write_text("0123456789abcdef")
    app = make_app(audit_log=tmp_path / "audit.jsonl", audit_key_file=key)
    async with running(app) as client:
        for _ in range(2):
            assert (await client.post("/segment", **form())).status_code == 200
    text = (tmp_path / "audit.jsonl").read_text()
    (tmp_path / "audit.jsonl").write_text(text.replace("0" * 64, MANIFEST.weights.sha256))
    assert main([str(tmp_path)]) == 0
    assert f"| pixels | 2 | {picture().size} |" in capsys.readouterr().out


def test_alerts_and_report_have_the_same_limits() -> None:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    rules = {one.get("alert", one.get("record")): one["expr"] for g in groups for one in g["rules"]}
    assert rules["LungsegUnlikeTraining"].endswith(f"> {limits.MOST_OUTSIDE:g}")
    assert rules["LungsegDrift"].endswith(f"> {limits.MOST_SHIFT:g}")
    for name in ("outside", "below"):
        enough = f"lungseg:drift_compared:7d >= {limits.LEAST_XRAYS}"
        assert enough in rules[f"lungseg:drift_{name}:share_7d"]
