"""Manifests beside the clone, as people's programs wrote them, through the real command."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path

import pytest

from training.__main__ import main
from training.run.provenance import names_sha256

CONFIG = Path(__file__).parents[2] / "training" / "configs" / "miniature_pretrain.toml"

# What is to be: the rows of each split.
MANIFESTS: dict[str, dict[str, int]] = {
    "manifest_bom.csv": {"train": 8, "val": 4, "test": 4},  # Excel's "CSV UTF-8"
}


@pytest.fixture(scope="module")
def folder(xray_root: Path) -> Path:
    found = xray_root.parent / "cases" / "training"
    if not found.is_dir():
        pytest.skip(f"no {found}: its manifests were NOT read")
    return found


def test_every_manifest_of_the_folder_is_in_the_table(folder: Path) -> None:
    assert {path.name for path in folder.glob("*.csv")} == set(MANIFESTS)


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_run_trains_on_the_rows_of_each_manifest(folder: Path, tmp_path: Path, name: str) -> None:
    data, counts = tmp_path / "data", MANIFESTS[name]
    words = [word for split, count in counts.items() for word in (f"--{split}", str(count))]
    assert main(["phantoms", "--out", str(data), *words]) == 0
    (data / "manifest.csv").write_bytes((folder / name).read_bytes())
    settings = [f"data.root={data}", "data.workers=0", "steps=1", "optimizer.warmup_steps=0"]
    flags = [word for one in settings for word in ("--set", one)]
    run = ["--config", str(CONFIG), "--run", str(tmp_path / "run"), "--device", "cpu"]
    assert main(["pretrain", *run, *flags]) == 0
    names: dict[str, list[str]] = {split: [] for split in counts}
    for row in csv.DictReader((folder / name).read_text("utf-8-sig").splitlines()):
        names[row["split"]].append(row["name"])
    assert {split: len(found) for split, found in names.items()} == counts
    told = json.loads((tmp_path / "run" / "provenance.json").read_text())["provenance"]
    assert told["manifest_sha256"] == hashlib.sha256((folder / name).read_bytes()).hexdigest()
    for split in ("train", "val"):
        assert told[split]["xrays"] == counts[split]
        assert told[split]["names_sha256"] == names_sha256(names[split])
