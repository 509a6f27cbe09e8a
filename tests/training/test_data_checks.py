"""What a data set must be before the first step, and manifests as Excel writes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.__main__ import main
from training.config import load_config
from training.data.config import DataConfig
from training.data.dataset import read_rows
from training.errors import ConfigError, DataError
from training.phantom.dataset import write_phantom_dataset
from training.run.assembly import batch_source
from training.run.selection import load_training_xrays, select

CONFIG = Path(__file__).parents[2] / "training" / "configs" / "miniature_pretrain.toml"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_phantom_dataset(tmp_path / "data", {"train": 6, "val": 2, "test": 2}, 64)
    return tmp_path / "data"


def change_manifest(data: Path, change: Callable[[list[str]], list[str]]) -> None:
    path = data / "manifest.csv"
    path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")


@pytest.mark.parametrize(
    "write",
    [
        lambda text: b"\xef\xbb\xbf" + text.encode(),
        lambda text: text.encode("utf-16"),
        lambda text: text.replace(",", "\t").encode("utf-16"),
        lambda text: text.replace(",", ";").encode("cp1252"),
        lambda text: text.replace("\r\n", "\n").encode(),
        lambda text: text.replace("\n", "\r\n").replace("\r\r", "\r").encode() + b"\r\n,,,,,,,\r\n",
    ],
    ids=["UTF-8 with a mark", "UTF-16", "Unicode text", "semicolons", "Unix", "empty lines"],
)
def test_a_manifest_is_read_as_excel_writes_it(data: Path, write: Callable[[str], bytes]) -> None:
    path = data / "manifest.csv"
    wanted = read_rows(data, "train")
    text = path.read_bytes().decode().replace("CC0-1.0", "Universität")
    path.write_bytes(write(text))
    rows = read_rows(data, "train")
    assert [row.name for row in rows] == [row.name for row in wanted]
    assert {row.license for row in rows} == {"Universität"}


def test_a_manifest_that_is_no_table_is_refused(data: Path) -> None:
    path = data / "manifest.csv"
    path.write_bytes(b"PK\x03\x04 a workbook\0\0")
    with pytest.raises(DataError, match="not a text file; save it as CSV in UTF-8"):
        read_rows(data, "train")
    path.write_text("name,split,source,convention\na,train,b,lung_field,5\n")
    with pytest.raises(DataError, match="line 2: 5 values for 4 columns"):
        read_rows(data, "train")
    path.write_text("name,split,source,convention,name\n")
    with pytest.raises(DataError, match="has the columns name twice"):
        read_rows(data, "train")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: [*rows, rows[1]], "line 12: phantom_00000 stands there twice, in line 2"),
        (
            lambda rows: [*rows, rows[1].replace("train", "val")],
            "phantom_00000 stands there twice",
        ),
        (
            lambda rows: [row.replace("phantom_00007,CC0", "phantom_00001,CC0") for row in rows],
            "1 patients stand in two splits.*phantom_00001 in train and val",
        ),
        (
            lambda rows: [row.replace(",train,", ",training,") for row in rows],
            "line 2: split is 'training'; it must be one of train, val, test",
        ),
        (lambda rows: [*rows, "," + rows[1].partition(",")[2]], "line 12: the name is empty"),
    ],
)
def test_rows_that_would_falsify_a_result_are_refused(
    data: Path, change: Callable[[list[str]], list[str]], said: str
) -> None:
    change_manifest(data, change)
    with pytest.raises(DataError, match=said):
        select(DataConfig(str(data)))


def test_empty_and_full_masks_are_refused_by_name(data: Path) -> None:
    path = data / "train" / "masks" / "phantom_00002.png"
    with Image.open(path) as mask:
        size = mask.size
    Image.new("1", size).save(path)
    with pytest.raises(DataError, match="train: phantom_00002 with an empty mask"):
        load_training_xrays(DataConfig(str(data), cached_side=64))
    Image.new("1", size, 1).save(path)
    with pytest.raises(DataError, match=r"phantom_00002\.png: The mask has one level only"):
        load_training_xrays(DataConfig(str(data), cached_side=64))


def test_one_xray_and_one_patient_are_refused(data: Path) -> None:
    change_manifest(data, lambda rows: [rows[0], rows[1], *rows[7:]])
    with pytest.raises(DataError, match="train is of one patient, phantom_00000"):
        load_training_xrays(DataConfig(str(data), cached_side=64))


def test_a_batch_that_cannot_be_filled_is_refused(data: Path) -> None:
    config = load_config(CONFIG, {"data.root": str(data), "batch_size": 7})
    xrays = load_training_xrays(config.data)
    with pytest.raises(ConfigError, match="batch_size is 7; there are only 6 X-rays"):
        batch_source(config, config.model, xrays)
    repeated = load_config(
        CONFIG,
        {"data.root": str(data), "batch_size": 7, "data.repeats": {"phantom_lung_field": 2}},
    )
    assert batch_source(repeated, config.model, xrays).rows_per_epoch == 9


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"leave_out": ("phantom_lung_fields",)},
            r"data.leave_out names phantom_lung_fields \(did you mean phantom_lung_field\?\)",
        ),
        ({"repeats": {"montgomerry": 4}}, "data.repeats names montgomerry, which .* does not have"),
        ({"repeats": {"phantom": 4}}, "data.repeats names phantom"),
    ],
)
def test_names_that_the_manifest_does_not_have_are_refused(
    data: Path, settings: dict[str, object], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        select(DataConfig(str(data), **settings))  # type: ignore[arg-type]
    select(DataConfig(str(data), phantoms=2, repeats={"phantom": 4}))


def test_a_list_of_other_xrays_is_refused(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "drawn.csv"
    path.write_text("name,convention_mismatch\nsomebody,yes\n")
    with pytest.raises(ConfigError, match=r"lists no X-ray that .*manifest\.csv has"):
        select(DataConfig(str(data), convention_mismatch=(str(path),)))


def test_the_command_refuses_before_it_writes_anything(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    command = ["pretrain", "--config", str(CONFIG), "--run", str(run), "--set", f"data.root={data}"]
    assert main([*command, "--set", 'data.leave_out=["phantom"]']) == 2
    assert "data.leave_out names phantom" in capsys.readouterr().err
    mask = data / "val" / "masks" / "phantom_00006.png"
    Image.fromarray(np.zeros_like(np.asarray(Image.open(mask)))).save(mask)
    assert main(command) == 2
    assert "val: phantom_00006 with an empty mask" in capsys.readouterr().err
    assert not run.exists()
