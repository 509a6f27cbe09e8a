"""Many files with one model: folders, patterns, names of masks, and a row for each failure."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.segment_file import main
from service.segment_folder import COLUMNS, files_of
from tests.service.test_segment_file import FakePredictor


@pytest.fixture
def xrays(tmp_path: Path) -> Path:
    folder = tmp_path / "xrays"
    (folder / "more").mkdir(parents=True)
    (tmp_path / "model").mkdir()
    rows, columns = np.mgrid[0:80, 0:100]
    image = Image.fromarray((rows + columns).astype(np.uint8))
    for name in ("a.png", "b.jpg", "more/a.png", ".hidden.png"):
        image.save(folder / name)
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
    return folder


def run(tmp_path: Path, *flags: object) -> tuple[int, list[FakePredictor]]:
    loaded: list[FakePredictor] = []

    def load(folder: Path, device: str) -> FakePredictor:
        loaded.append(FakePredictor())
        return loaded[-1]

    out = tmp_path / "out" / "mask.png"
    argv = ["--checkpoint_path", tmp_path / "model", "--output_mask_path", out, *flags]
    return main([str(one) for one in argv], load), loaded  # type: ignore[arg-type]


def table(tmp_path: Path) -> list[dict[str, str]]:
    with (tmp_path / "out" / "results.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_folder_is_segmented_with_one_model_and_a_row_for_each_file(
    tmp_path: Path, xrays: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overlays = tmp_path / "overlays"
    code, loaded = run(tmp_path, "--image_path", xrays, "--save_mask", "--save_overlay", overlays)
    said = capsys.readouterr()
    assert code == 3  # one could not be read
    assert json.loads(said.out)["files"] == 4 and json.loads(said.out)["failed"] == 1
    assert "4 of 4 files, 1 failed" in said.err
    assert len(loaded) == 1 and len(loaded[0].asked) == 3
    rows = {Path(row["file"]).relative_to(xrays).as_posix(): row for row in table(tmp_path)}
    assert set(rows) == {"a.png", "b.jpg", "broken.png", "more/a.png"}
    assert rows["broken.png"]["status"] == "failed" and rows["broken.png"]["error"]
    done = rows["b.jpg"]
    assert (done["status"], done["width"], done["height"]) == ("done", "100", "80")
    assert float(done["confidence"]) == 0.98 and int(done["lungs_area_px"]) > 0
    masks = [row["mask_file"] for row in rows.values() if row["status"] == "done"]
    assert len(set(masks)) == 3 and all(Path(mask).is_file() for mask in masks)
    assert Path(done["mask_file"]).name == "b_mask.png"
    assert len(list(overlays.glob("*_overlay.png"))) == 3
    assert tuple(table(tmp_path)[0]) == COLUMNS


def test_patterns_and_several_paths(tmp_path: Path, xrays: Path) -> None:
    assert [one.name for one in files_of([xrays / "*.png"])] == ["a.png", "broken.png"]
    assert len(files_of([xrays / "**" / "a.png", xrays / "b.jpg", xrays / "a.png"])) == 3
    code, _ = run(tmp_path, "--image_path", xrays / "a.png", xrays / "b.jpg")
    assert code == 0
    assert [row["status"] for row in table(tmp_path)] == ["done", "done"]
    assert not list((tmp_path / "out").glob("*.png"))  # masks are written where asked for


def test_a_file_that_is_missing_is_a_row(tmp_path: Path, xrays: Path) -> None:
    code, _ = run(tmp_path, "--image_path", xrays / "a.png", xrays / "gone.png")
    assert code == 3
    assert "cannot be read" in table(tmp_path)[1]["error"]


def test_a_pattern_without_files_and_figures_of_many_are_refused(
    tmp_path: Path, xrays: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, "--image_path", xrays / "*.dcm")[0] == 3
    assert run(tmp_path, "--image_path", xrays, "--visualize")[0] == 2
    assert "--save_overlay" in capsys.readouterr().err
