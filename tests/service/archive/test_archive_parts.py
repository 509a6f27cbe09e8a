"""Parts of an archive's result: whole or absent, one row for each X-ray, never two."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.archive.errors import ArchiveError
from service.archive.inputs import ArchiveInput
from service.archive.locations import location_of
from service.archive.parts import ResultFolder
from service.archive.progress import Progress
from service.archive.rows import ROW_SCHEMA, failed_row


def xray(name: str) -> ArchiveInput:
    return ArchiveInput(name, "", "lung_field")


def done(name: str) -> dict[str, object]:
    return {**xray(name).row(), "status": "done"}


def failed(name: str) -> dict[str, object]:
    return failed_row(xray(name), "undecodable_image", "Not an image.")


def write(folder: ResultFolder, *rows: dict[str, object]) -> None:
    folder.write(folder.part_of([str(row["input_id"]) for row in rows]), rows)


def test_a_part_is_named_by_its_xrays_in_any_order(tmp_path: Path) -> None:
    folder = ResultFolder(str(tmp_path))
    assert folder.part_of(["a", "b"]) == folder.part_of(["b", "a"])
    assert folder.part_of(["a", "b"]) != folder.part_of(["a"])


def test_every_row_counts_as_finished_failures_too(tmp_path: Path) -> None:
    folder = ResultFolder(str(tmp_path))
    write(folder, done("a"), failed("b"))
    write(folder, done("c"))
    assert folder.finished() == {xray(name).input_id for name in "abc"}
    assert sorted(map(folder.counts, folder.parts())) == [(1, 0), (1, 1)]


def test_forgotten_failures_are_left_to_do_and_nothing_else_is(tmp_path: Path) -> None:
    folder = ResultFolder(str(tmp_path))
    write(folder, done("a"), failed("b"))
    write(folder, failed("c"))
    write(folder, done("d"))
    assert folder.forget_failures() == 2
    assert folder.finished() == {xray("a").input_id, xray("d").input_id}


def test_a_killed_writer_leaves_no_part(tmp_path: Path) -> None:
    results = tmp_path / "results"
    results.mkdir()
    (results / ".part-0.parquet.1234").write_bytes(b"PAR1 half")
    assert ResultFolder(str(tmp_path)).parts() == []


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "part-0.parquet").write_bytes(b"PAR1 half")
    with pytest.raises(ArchiveError, match=r"part-0\.parquet cannot be read"):
        ResultFolder(str(tmp_path)).finished()


def test_a_run_that_asks_otherwise_is_not_mixed_in(tmp_path: Path) -> None:
    folder = ResultFolder(str(tmp_path))
    folder.require_same({"threshold": 0.5})
    folder.require_same({"threshold": 0.5})
    with pytest.raises(ArchiveError, match=r"threshold 0\.5, and this one asks for 0\.6"):
        folder.require_same({"threshold": 0.6})


def test_rows_have_every_column_also_when_they_failed(tmp_path: Path) -> None:
    folder = ResultFolder(str(tmp_path))
    write(folder, failed("a"))
    (table,) = folder.tables(ROW_SCHEMA.names)
    assert table.column_names == ROW_SCHEMA.names


def test_a_file_is_read_up_to_its_limit_and_a_folder_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    assert location_of(str(tmp_path / "file")).read(3) == b"123"
    for name in (".", "none"):
        with pytest.raises(FileNotFoundError):
            location_of(str(tmp_path / name)).read(3)


def test_progress_says_rate_and_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    import sys

    progress = Progress(10, 4, sys.stderr)
    progress._lately[0] = (progress._lately[0][0] - 2.0, 4)
    progress.add(1, 1)
    said = capsys.readouterr().err
    assert said.startswith("archive: 6 of 10, 1 failed, 1.0 a second, 0:00:04 left")
