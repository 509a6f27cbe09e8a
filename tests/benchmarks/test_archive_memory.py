"""The slope of an archive's memory, and what the run is made of."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.service.archive_memory import mb_per_100_000, write_names, write_small_model
from model_store.predictor import Predictor
from service.archive.inputs import inputs_of


def test_the_slope_is_that_of_the_line_through_all_looks() -> None:
    done = [10_000, 20_000, 30_000, 40_000]
    assert mb_per_100_000(done, [5e8] * 4) == pytest.approx(0, abs=1e-6)
    assert mb_per_100_000(done, [5e8 + 300 * one for one in done]) == pytest.approx(30)


def test_every_name_is_an_xray_of_its_own_and_the_model_can_be_loaded(tmp_path: Path) -> None:
    write_names(tmp_path, 40)
    inputs = list(inputs_of([str(tmp_path / "names.csv")], "lung_field"))
    assert len({one.input_id for one in inputs}) == 40
    assert all(Path(one.address).read_bytes()[:4] == b"\x89PNG" for one in inputs)
    write_small_model(tmp_path / "model")
    assert Predictor.load(tmp_path / "model" / "small" / "1").info.name == "small"
