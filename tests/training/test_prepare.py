"""``python -m training prepare`` as it is typed, from raw downloads to rows that train."""

import csv
import hashlib
import json
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model_store.predictor import Predictor
from tests import raw_downloads
from tests.raw_downloads import SIDE, phantom
from training.__main__ import main
from training.data.config import DataConfig
from training.data.dataset import load_xrays, read_rows
from training.errors import ConfigError
from training.run.selection import load_training_xrays


def run(out: Path, *roots: tuple[str, Path], extra: tuple[str, ...] = ()) -> int:
    arguments = [
        part for source, root in roots for part in ("--source", source, "--root", str(root))
    ]
    return main(["prepare", *arguments, "--out", str(out), "--workers", "2", *extra])


def manifest(out: Path) -> list[dict[str, str]]:
    with (out / "manifest.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def tree(out: Path) -> dict[str, str]:
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in out.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, Path]]:
    base = tmp_path_factory.mktemp("raw")
    writers = (
        raw_downloads.montgomery, raw_downloads.shenzhen, raw_downloads.qata_cov19,
        raw_downloads.pneumothorax, raw_downloads.covid_qu_ex, raw_downloads.darwin,
    )  # fmt: skip
    return [(write.__name__, write(base / write.__name__, 12)) for write in writers]


@pytest.fixture(scope="module")
def prepared(downloads: list[tuple[str, Path]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("prepared") / "data"
    assert run(out, *downloads, extra=("--skip-bad",)) == 0
    return out


def test_training_reads_the_lungs_alone(prepared: Path) -> None:
    rows = [row for split in ("train", "val", "test") for row in read_rows(prepared, split)]
    sources = {row.source for row in rows}
    assert sources == {"montgomery", "shenzhen", "covid_qu_ex", "darwin"}
    assert len(rows) == 12 + 12 + 12 + 11
    for xray in load_xrays(rows):
        assert xray.image.shape == xray.mask.shape == (SIDE, SIDE)
        assert 0.05 < xray.mask.mean() < 0.8 and xray.image.std() > 10


def test_other_structures_come_when_asked(prepared: Path) -> None:
    infected = read_rows(prepared, "train", "infection")
    assert {row.source for row in infected} <= {"qata_cov19", "covid_qu_ex"}
    collapsed = load_training_xrays(DataConfig(root=str(prepared), structure="pneumothorax"))
    assert {xray.source for xray in collapsed} == {"pneumothorax"}
    assert {bool(xray.mask.any()) for xray in collapsed} == {True, False}
    with pytest.raises(ConfigError, match="lungs, infection, pneumothorax"):
        DataConfig(structure="heart")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="phantoms show lungs"):
        DataConfig(structure="infection", phantoms=2)


CONFIG = Path(__file__).parents[2] / "training" / "configs" / "miniature_pretrain.toml"


@pytest.mark.parametrize("structure", ["lungs", "infection"])
def test_it_trains(
    structure: str, prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [f"data.root={prepared}", f"data.structure={structure}", "steps=2",
                "optimizer.warmup_steps=0"]  # fmt: skip
    arguments = [part for setting in settings for part in ("--set", setting)]
    assert main(["pretrain", "--config", str(CONFIG), "--run", str(tmp_path / "run"),
                 "--device", "cpu", *arguments]) == 0  # fmt: skip
    exported = main(["export", "--run", str(tmp_path / "run"), "--name", "mini", "--version", "1",
                     "--data", str(prepared), "--out", str(tmp_path / "models")])  # fmt: skip
    if structure == "lungs":
        counted = Predictor.load(tmp_path / "models" / "mini" / "1", "cpu").info.manifest
        wanted = sum(
            r["split"] == "train" and r["structure"] == "lungs" for r in manifest(prepared)
        )
        assert exported == 0 and sum(entry.images for entry in counted.training_data) == wanted
    else:
        assert exported == 2
        assert "was trained on infection; stored models segment lungs" in capsys.readouterr().err


def test_the_manifest_says_where_each_comes_from(
    prepared: Path, downloads: list[tuple[str, Path]]
) -> None:
    rows = {row["name"]: row for row in manifest(prepared)}
    row = rows["montgomery_MCUCXR_0003_1"]
    film = dict(downloads)["montgomery"] / "MontgomerySet" / "CXR_png" / "MCUCXR_0003_1.png"
    assert row["source_sha256"] == hashlib.sha256(film.read_bytes()).hexdigest()
    assert row["license"].startswith("NLM/NIH open release") and row["convention"] == "lung_field"
    assert row["spacing_mm"] == "0.0875" and row["patient"] == "montgomery_MCUCXR_0003"
    assert rows["darwin_person3_virus_3"]["convention"] == "whole_lung"
    assert rows["qata_cov19_sub-S00000_ses-E0_run-1_bp-chest_vp-ap_dx"]["convention"] == ""
    facts = json.loads((prepared / "prepared.json").read_text())
    assert facts["seed"] == 0 and facts["left_out"] == 1


def test_patients_and_copies_stay_in_one_split(tmp_path: Path) -> None:
    """Phantoms 0 to 19 in Montgomery, 10 to 29 again in Shenzhen; QaTa has two X-rays a patient."""
    roots = [
        ("montgomery", raw_downloads.montgomery(tmp_path / "m", 20, first=0)),
        ("shenzhen", raw_downloads.shenzhen(tmp_path / "s", 20, first=10)),
        ("qata_cov19", raw_downloads.qata_cov19(tmp_path / "q", 20, first=500)),
    ]
    out = tmp_path / "data"
    assert run(out, *roots) == 0
    splits: defaultdict[str, set[str]] = defaultdict(set)
    groups: defaultdict[str, set[str]] = defaultdict(set)
    for row in manifest(out):
        number = int(row["name"].split("_")[2]) if row["source"] != "qata_cov19" else -1
        seed = number + 10 if row["source"] == "shenzhen" else number
        key = row["patient"] if number < 0 else f"phantom {seed}"
        splits[key].add(row["split"])
        groups[key].add(row["group"])
    assert len(splits) == 30 + 10
    assert all(len(found) == 1 for found in splits.values())
    assert all(len(found) == 1 for found in groups.values())
    assert len({group for found in groups.values() for group in found}) == 40
    assert json.loads((out / "prepared.json").read_text())["duplicates"] == 10


def test_the_same_seed_gives_the_same_bytes(
    prepared: Path, downloads: list[tuple[str, Path]], tmp_path: Path
) -> None:
    assert run(tmp_path / "again", *downloads[::-1], extra=("--skip-bad",)) == 0
    assert tree(tmp_path / "again") == tree(prepared)
    assert run(tmp_path / "other", *downloads, extra=("--skip-bad", "--seed", "1")) == 0
    assert {row["name"]: row["split"] for row in manifest(tmp_path / "other")} != {
        row["name"]: row["split"] for row in manifest(prepared)
    }


def test_large_films_are_scaled_with_their_spacing(tmp_path: Path) -> None:
    root = raw_downloads.jsrt(tmp_path / "raw", 1)
    assert run(tmp_path / "data", ("jsrt", root), extra=("--longest-side", "512")) == 0
    row = manifest(tmp_path / "data")[0]
    assert (row["width"], row["height"], row["source_width"]) == ("512", "512", "2048")
    assert row["spacing_mm"] == "0.7"
    xray = load_xrays(read_rows(tmp_path / "data", "train"))[0]
    drawn = np.asarray(Image.fromarray(phantom(201).image).resize((512, 512)))
    assert np.corrcoef(xray.image.ravel(), drawn.ravel())[0, 1] > 0.98


def test_bad_files_stop_it_unless_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = raw_downloads.montgomery(tmp_path / "raw", 5)
    pictures = root / "MontgomerySet" / "CXR_png"
    (pictures / "MCUCXR_0000_0.png").write_bytes(b"not a PNG")
    (pictures / "MCUCXR_0001_1.png").unlink()
    left = root / "MontgomerySet" / "ManualMask" / "leftMask" / "MCUCXR_0002_0.png"
    right = root / "MontgomerySet" / "ManualMask" / "rightMask" / "MCUCXR_0002_0.png"
    for path in (left, right):
        Image.new("L", (SIDE, SIDE)).save(path)
    out = tmp_path / "data"
    assert run(out, ("montgomery", root)) == 2
    error = capsys.readouterr().err
    report = tmp_path / "data-problems.csv"
    for said in (
        f"3 files cannot be used, all listed in {report}; --skip-bad",
        "MCUCXR_0000_0.png: cannot be read",
        "MCUCXR_0001_1.png: mask without an X-ray",
        "MCUCXR_0002_0.png: the mask is empty",
    ):
        assert said in error
    assert not out.exists()
    with report.open(newline="") as file:
        assert [row["source"] for row in csv.DictReader(file)] == ["montgomery"] * 3
    assert run(out, ("montgomery", root), extra=("--skip-bad",)) == 0
    assert "3 files left out" in capsys.readouterr().out
    assert [row["name"][-6:] for row in manifest(out)] == ["0003_1", "0004_0"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "data-problems.csv", "raw"]


def test_nothing_is_left_behind_when_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = raw_downloads.montgomery(tmp_path / "raw", 3)

    def full(*arguments: object, **named: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(csv, "DictWriter", full)
    assert run(tmp_path / "data", ("montgomery", root)) == 2
    assert "No space left" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data-problems.csv", "raw"]


def test_a_killed_run_leaves_no_data_set(tmp_path: Path) -> None:
    root = raw_downloads.jsrt(tmp_path / "raw", 6)
    out = tmp_path / "data"
    command = [sys.executable, "-m", "training", "prepare", "--source", "jsrt", "--root", str(root),
               "--out", str(out), "--workers", "1"]  # fmt: skip
    process = subprocess.Popen(command, cwd=Path(__file__).parents[2])
    while process.poll() is None and not list(tmp_path.glob(".data.*.partial/masks/*.png")):
        time.sleep(0.001)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not out.exists()
    assert run(out, ("jsrt", root)) == 0
    assert len(manifest(out)) == 6


def test_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = raw_downloads.montgomery(tmp_path / "raw", 1)
    assert run(tmp_path / "raw", ("montgomery", root)) == 2
    assert "exists" in capsys.readouterr().err
    assert run(tmp_path / "d", ("montgomery", root), ("montgomery", root)) == 2
    assert "would both be montgomery_MCUCXR_0000_0" in capsys.readouterr().err
    assert run(tmp_path / "d", ("montgomery", tmp_path / "absent")) == 2
    assert "is no folder" in capsys.readouterr().err
    assert run(tmp_path / "d", ("montgomery", root), extra=("--longest-side", "8")) == 2
    assert "below 64" in capsys.readouterr().err
    assert main(["prepare", "--source", "jsrt", "--source", "darwin", "--root", "x",
                 "--out", str(tmp_path / "d")]) == 2  # fmt: skip
    assert "2 --source but 1 --root" in capsys.readouterr().err
