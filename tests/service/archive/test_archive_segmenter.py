"""The pipeline of the service over files: one bad file costs its own row and no other."""

from __future__ import annotations

import io
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from service.archive.errors import ArchiveError
from service.archive.inputs import ArchiveInput
from service.archive.locations import location_of
from service.archive.segmenter import ATTEMPTS, ResultOptions, Segmenter
from service.compute.model_handle import ModelRefusedError
from service.settings import Settings
from service.workers.errors import EndReason, TooCostly, WorkerError, WorkerLost
from tests.service.fake_model import FakePredictor
from tests.service.in_process_pool import InProcessPool

NOTHING_MORE = ResultOptions()
SETTINGS = Settings(image_workers=2, max_upload_bytes=5000)


def write_xray(path: Path, seed: int = 0) -> ArchiveInput:
    pixels = np.random.default_rng(seed).integers(0, 255, (40, 48), dtype=np.uint8)
    Image.fromarray(pixels).save(path, "PNG")
    return ArchiveInput(str(path), "", "lung_field")


@contextmanager
def segmenter(
    folder: Path, options: ResultOptions = NOTHING_MORE, pool: InProcessPool | None = None
) -> Generator[Segmenter, None, None]:
    found = pool or InProcessPool()
    running = Segmenter(
        SETTINGS,
        options,
        location_of(str(folder)),
        predictor_factory=lambda settings: FakePredictor(),
        pool_factory=lambda settings, on_ended: found,
    )
    try:
        yield running
    finally:
        running.close()


def test_rows_come_in_order_and_each_failure_has_its_reason(tmp_path: Path) -> None:
    good = write_xray(tmp_path / "good.png")
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "large.png").write_bytes(b"x" * 5001)
    os.mkfifo(tmp_path / "pipe.png")
    asked = [
        ArchiveInput(str(tmp_path / "missing.png"), "", "lung_field"),
        good,
        ArchiveInput(str(tmp_path / "text.png"), "", "lung_field"),
        ArchiveInput(str(tmp_path / "large.png"), "", "lung_field"),
        ArchiveInput(str(tmp_path / "pipe.png"), "", "lung_field"),
        ArchiveInput(good.address, "0,0,500,500", "lung_field"),
        ArchiveInput(good.address, "1,,3,4", "lung_field"),
        ArchiveInput(good.address, "", "mediastinum"),
        ArchiveInput("s4://bucket/a.png", "", "lung_field"),
    ]
    with segmenter(tmp_path / "out") as running:
        rows = running.rows(asked)
    assert [row["input"] for row in rows] == [one.address for one in asked]
    assert [row["status"] for row in rows] == ["failed", "done"] + ["failed"] * 7
    assert [row.get("code") for row in rows] == [
        "unreadable_file",
        None,
        "undecodable_image",
        "payload_too_large",
        "unreadable_file",
        "invalid_box",
        "invalid_box",
        "invalid_field",
        "unreadable_file",
    ]
    assert all(row["reason"] for row in rows if row["status"] == "failed")


def test_each_box_has_its_mask_and_the_least_sure_stands_in_the_columns(tmp_path: Path) -> None:
    one = write_xray(tmp_path / "a.png")
    asked = ArchiveInput(one.address, "0,0,20,20;10,10,40,40", "lung_field")
    with segmenter(tmp_path / "out", ResultOptions(masks=True, overlays=True)) as running:
        (row,) = running.rows([asked])
    assert [mask["bbox"] for mask in row["masks"]] == [[0, 0, 20, 20], [10, 10, 40, 40]]
    assert row["confidence"] == min(mask["confidence"] for mask in row["masks"])
    for mask in row["masks"]:
        with Image.open(tmp_path / "out" / mask["png_file"]) as picture:
            assert (picture.size, picture.mode) == ((48, 40), "L")
    data = (tmp_path / "out" / row["overlay_file"]).read_bytes()
    assert Image.open(io.BytesIO(data)).size == (48, 40)


def tried(tmp_path: Path, error: WorkerError) -> tuple[dict[str, Any], int]:
    pool = InProcessPool()
    asked = write_xray(tmp_path / "a.png")
    with segmenter(tmp_path / "out", pool=pool) as running:
        pool.fails_with["open"] = error
        pool.asked.clear()
        (row,) = running.rows([asked])
        return row, pool.asked.count("open")


def test_an_xray_that_costs_too_much_is_not_tried_again(tmp_path: Path) -> None:
    row, times = tried(tmp_path, TooCostly(EndReason.CPU_LIMIT))
    assert (row["status"], row["code"], times) == ("failed", "image_too_costly", 1)


def test_an_xray_whose_worker_was_killed_is_tried_again_and_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.archive.segmenter.PAUSE_S", 0.001)
    row, times = tried(tmp_path, WorkerLost(EndReason.KILLED))
    assert (row["status"], row["code"], times) == ("failed", "worker_lost", ATTEMPTS)


def test_a_model_that_is_refused_ends_the_run(tmp_path: Path) -> None:
    def refuse(settings: Settings) -> FakePredictor:
        raise ModelRefusedError("weights.safetensors has another sha256.")

    with pytest.raises(ArchiveError, match="another sha256"):
        Segmenter(
            SETTINGS,
            ResultOptions(),
            location_of(str(tmp_path)),
            refuse,
            lambda settings, on_ended: InProcessPool(),
        )
