"""Which X-rays an archive run takes, and what it asks about each."""

from __future__ import annotations

from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from service.archive.errors import ArchiveError
from service.archive.inputs import ArchiveInput, inputs_of


def addresses(*sources: str) -> list[str]:
    return [one.address for one in inputs_of(sources, "lung_field")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "b.dcm", "deep/er/c.dcm", "deep/[d].png", ".hidden/e.png", ".f.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path


def test_a_folder_gives_its_files_at_any_depth_without_hidden_ones(folder: Path) -> None:
    names = ["a.png", "b.dcm", "deep/[d].png", "deep/er/c.dcm"]
    assert addresses(str(folder)) == [str(folder / name) for name in names]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*.dcm", ["b.dcm"]),
        ("**/*.dcm", ["b.dcm", "deep/er/c.dcm"]),
        ("deep/**", ["deep/[d].png", "deep/er/c.dcm"]),
        ("?.png", ["a.png"]),
        ("[!b].*", ["a.png"]),
        ("deep/[[]d].png", ["deep/[d].png"]),
        ("*.jpg", []),
    ],
)
def test_patterns_match_as_in_a_shell(folder: Path, pattern: str, names: list[str]) -> None:
    assert addresses(str(folder / pattern)) == [str(folder / name) for name in names]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(folder: Path) -> None:
    assert addresses(str(folder / "deep" / "[d].png")) == [str(folder / "deep" / "[d].png")]


def test_an_address_of_a_file_system_names_the_same_files(folder: Path) -> None:
    assert addresses(f"file://{folder}/*.dcm") == [str(folder / "b.dcm")]


def test_what_is_named_twice_is_segmented_once(folder: Path) -> None:
    file = str(folder / "a.png")
    assert addresses(file, str(folder / "*.png"), file) == [file]


def test_a_csv_names_boxes_and_conventions(folder: Path) -> None:
    table = folder / "list.csv"
    table.write_text("input,x0,y0,x1,y1,convention\n007.png,1,2,3.5,4,whole_lung\n/b.png,,,,,\n")
    found = list(inputs_of([str(table)], "lung_field"))
    assert found == [
        ArchiveInput(str(folder / "007.png"), "1,2,3.5,4", "whole_lung"),
        ArchiveInput("/b.png", "", "lung_field"),
    ]


def test_numbers_as_names_keep_their_zeros(folder: Path) -> None:
    (folder / "list.csv").write_text("file\n007\n")
    assert addresses(str(folder / "list.csv")) == [str(folder / "007")]


def test_a_parquet_table_names_several_boxes(folder: Path) -> None:
    boxes = [[[0.0, 0.0, 10.0, 10.0], [5.5, 5.0, 9.0, 9.0]], [], None]
    path = folder / "list.parquet"
    parquet.write_table(pyarrow.table({"path": ["p", "q", "r"], "boxes": boxes}), path)
    found = [one.boxes for one in inputs_of([str(path)], "lung_field")]
    assert found == ["0,0,10,10;5.5,5,9,9", "", ""]


def test_a_box_of_three_numbers_keeps_its_hole(folder: Path) -> None:
    (folder / "list.csv").write_text("input,x0,y0,x1,y1\na.png,1,,3,4\n")
    assert next(inputs_of([str(folder / "list.csv")], "lung_field")).boxes == "1,,3,4"


@pytest.mark.parametrize("source", ["nowhere", "s4://bucket/x"])
def test_a_source_that_is_not_there_is_named(source: str) -> None:
    with pytest.raises(ArchiveError, match=source):
        list(inputs_of([source], "lung_field"))


def test_a_table_without_names_is_refused(folder: Path) -> None:
    (folder / "list.csv").write_text("picture\na.png\n")
    with pytest.raises(ArchiveError, match="has no column input or image"):
        list(inputs_of([str(folder / "list.csv")], "lung_field"))


def test_ids_tell_boxes_and_conventions_apart() -> None:
    asked = [("a", "", "lung_field"), ("a", "1,1,2,2", "lung_field"), ("a", "", "whole_lung")]
    assert len({ArchiveInput(*one).input_id for one in asked}) == 3
