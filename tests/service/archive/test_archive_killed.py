"""Archive runs on Ray: killed at every place, gone on with, and equal to the service's masks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from pyarrow import parquet

from benchmarks.service.server_process import running_server
from tests.service.archive.process_tree import descendants
from training.phantom.drawing import draw_phantom

XRAYS, ROWS_PER_PART = 28, 2


def command(folder: Path, *more: str) -> list[str]:
    flags = ["--input", str(folder / "in"), "--output", str(folder / "out"), "--local-cpus", "2"]
    flags += ["--actors", "2", "--rows-per-part", str(ROWS_PER_PART), *more]
    return [sys.executable, "-m", "service.archive", *flags]


def run(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(folder, *more), capture_output=True, text=True, timeout=170, check=False
    )


def until(condition: Callable[[], bool], timeout_s: float = 90.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "nothing happened in time"
        time.sleep(0.05)


def parts(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (folder / "out" / "results").glob("p*")}


def kill_one(root: int, word: str) -> None:
    """Ends one process whose command line has a word, as the kernel would for memory."""
    found = sorted(pid for pid, name in descendants(root).items() if word in name)
    assert found, f"no process {word}"
    os.kill(found[-1], signal.SIGKILL)


def test_actors_share_a_gpu_and_each_part_is_one_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray counts a GPU that is not there; the actors, which it places on it, use the processors."""
    monkeypatch.setenv("RAY_OVERRIDE_RESOURCES", '{"GPU": 1}')
    (tmp_path / "in").mkdir()
    for seed in range(2 * ROWS_PER_PART + 1):
        Image.fromarray(draw_phantom(seed, (96, 96)).image).save(tmp_path / "in" / f"{seed}.png")
    done = run(tmp_path, "--device", "cpu", "--gpus-per-actor", "0.5", "--contact-sheet", "0")
    assert done.returncode == 0, done.stderr
    rows = [parquet.read_metadata(one).num_rows for one in (tmp_path / "out/results").glob("p*")]
    assert sorted(rows) == [1, ROWS_PER_PART, ROWS_PER_PART]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive that was killed at every place and then finished; its folder."""
    folder = tmp_path_factory.mktemp("archive")
    (folder / "in").mkdir()
    for seed in range(XRAYS - 1):
        xray = Image.fromarray(draw_phantom(seed, (192, 192)).image)
        xray.resize((640, 640)).save(folder / "in" / f"{seed:02}.png")
    (folder / "in" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing more")
    said = (folder / "driver.log").open("wb")
    driver = subprocess.Popen(command(folder, "--masks"), stderr=said)
    try:
        until(lambda: len(parts(folder)) >= 1)
        kill_one(driver.pid, "service.compute.compute_process")
        kill_one(driver.pid, "service.workers.template")
        before = len(parts(folder))
        until(lambda: len(parts(folder)) > before)
        kill_one(driver.pid, "ray::MapWorker")
        before = len(parts(folder))
        until(lambda: len(parts(folder)) > before)
        # Ray's own two agents of a host end a minute later.
        below = descendants(driver.pid).items()
        left_behind = [pid for pid, name in below if "Agent" not in name]
    finally:
        driver.kill()
        driver.wait()
        said.close()
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in left_behind), 30)
    kept = parts(folder)
    assert 0 < len(kept) < XRAYS // ROWS_PER_PART, "the driver was killed too late"
    finished = run(folder, "--masks", "--contact-sheet", "3")
    assert finished.returncode == 3, finished.stderr
    after = parts(folder)
    assert {name: after[name] for name in kept} == kept, "finished X-rays were done again"
    told = json.loads(finished.stdout)
    assert told["new"] == XRAYS - ROWS_PER_PART * len(kept)
    return folder


def test_every_xray_has_one_row_and_the_bad_one_its_reason(archive: Path) -> None:
    rows = parquet.read_table(archive / "out" / "results").to_pylist()
    assert sorted(row["input"] for row in rows) == sorted(map(str, (archive / "in").iterdir()))
    failed = [row for row in rows if row["status"] != "done"]
    assert [Path(row["input"]).name for row in failed] == ["broken.png"]
    assert failed[0]["code"] == "undecodable_image"


def test_every_mask_is_the_services_byte_for_byte(archive: Path) -> None:
    rows = parquet.read_table(archive / "out" / "results").to_pylist()
    done = [row for row in rows if row["status"] == "done"]
    assert len(done) == XRAYS - 1
    with running_server(None) as server:
        for row in done:
            answer = server.segment(Path(row["input"]).read_bytes(), {}, accept="image/png")
            assert answer.status == 200
            (mask,) = row["masks"]
            assert (archive / "out" / mask["png_file"]).read_bytes() == answer.body, row["input"]


def test_the_page_shows_the_least_sure(archive: Path) -> None:
    page = (archive / "out" / "summary.html").read_text()
    pictures = [piece.split('"')[0] for piece in page.split('src="')[1:]]
    assert len(pictures) == 3
    assert all((archive / "out" / picture).is_file() for picture in pictures)
    assert "http" not in page


def test_a_finished_run_starts_no_model_and_tries_failures_only_when_told(archive: Path) -> None:
    again = run(archive, "--contact-sheet", "0", "--retry-failed")
    told = json.loads(again.stdout)
    assert (told["new"], told["xrays"], told["failed"]) == (1, XRAYS, 1)
    assert "streaming_executor" not in again.stderr  # Ray Data announces nothing of its own
