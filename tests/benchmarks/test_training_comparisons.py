"""Comparisons that train: what they count, pair and hold apart, without training anything long."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from benchmarks.experiments.adapter_learning import run_config as miniature
from benchmarks.experiments.adapter_methods import WAYS as ADAPTER_WAYS
from benchmarks.experiments.few_bits_training import WAYS, Effort, run_config, summarize, write_part
from benchmarks.quality.beside_float import FloatMasks, Row, kept
from benchmarks.quality.without_training import LOGITS, Scored, chosen_thresholds, lines_of
from model_store.model_index import default_float_twin_folder
from training.data.dataset import load_xrays, read_rows
from training.phantom.dataset import write_phantom_dataset


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compared") / "data"
    write_phantom_dataset(folder, {"train": 8, "val": 4, "test": 1}, longest_side=96)
    return folder


def test_the_ways_to_few_bits_differ_in_what_learns_alone(data: Path) -> None:
    twin = default_float_twin_folder()
    runs = {way: run_config(way, 4, 1, data, twin, Effort()) for way in WAYS}
    assert runs["gptq"].steps == 0 and not runs["frozen"].qat.integers_learn
    qat = runs["qat"]
    same = dataclasses.replace(qat, qat=dataclasses.replace(qat.qat, integers_learn=False))
    assert runs["frozen"] == same
    assert runs["float"].stage == "pretrain" and runs["float"].teacher == qat.teacher
    assert runs["float"].optimizer == qat.optimizer and runs["float"].model.input_size == 384
    assert qat.qat.calibration_batches * qat.batch_size >= Effort().calibration
    fewer = run_config("qat", 4, 1, data, twin, Effort(), activation_bits=4)
    assert fewer == dataclasses.replace(qat, qat=dataclasses.replace(qat.qat, activation_bits=4))


def test_a_part_of_a_data_set_is_spread_over_its_sources(data: Path, tmp_path: Path) -> None:
    write_part(data, tmp_path / "part", Effort(train_per_source=2, per_source=1))
    rows = read_rows(tmp_path / "part", "train")
    assert (
        sorted(row.source for row in rows)
        == ["phantom_lung_field"] * 2 + ["phantom_whole_lung"] * 2
    )
    assert {row.name for row in rows} < {row.name for row in read_rows(data, "train")}
    assert len(load_xrays(read_rows(tmp_path / "part", "val"))) == 2


def test_a_part_is_written_again_where_the_data_lack_a_split(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "part"
    without_test = tmp_path / "data"
    without_test.mkdir()
    for name in ("manifest.csv", "train", "val"):
        (without_test / name).symlink_to(data / name)
    for _ in range(2):  # a stopped command is started again
        write_part(without_test, folder, Effort(train_per_source=4, per_source=2))
    assert not (folder / "test").is_symlink()
    assert len(read_rows(folder, "val")) == 4


def row(way: str, levels: int, differences: tuple[float, ...]) -> Row:
    mean = sum(differences) / len(differences)
    return Row(way, levels, 0.9 + mean, mean, None, min(differences), 0.99, 1.0, differences)


def test_seeds_are_put_together_and_patients_counted_once(data: Path) -> None:
    xrays = [
        dataclasses.replace(one, source="s", group=patient)
        for one, patient in zip(load_xrays(read_rows(data, "val")), "aabc", strict=True)
    ]
    float_masks = FloatMasks(xrays, 64, (), ())
    found = summarize(
        [row("qat", 4, (0.0, 0.2, 0.1, 0.1)), row("qat", 2, (0.0,) * 4),
         row("qat", 4, (0.2, 0.0, 0.1, -0.1))],
        float_masks,
    )  # fmt: skip
    four, two = found
    assert (four.levels, four.seeds, two.seeds) == (4, 2, 1)
    assert four.difference == pytest.approx(0.075) and four.worst == -0.1
    assert four.sd == pytest.approx(0.0354, abs=1e-4)
    # Patient a's two X-rays count as one of 0.1, so b and c alone are left to differ.
    assert four.interval is not None and four.interval[1] <= 0.1 + 1e-9
    assert two.interval == (0.0, 0.0)


def test_what_was_measured_is_not_measured_again(tmp_path: Path) -> None:
    assert kept(tmp_path / "one.pt", lambda: {"dice": 0.9}) == {"dice": 0.9}

    def fail() -> None:
        raise AssertionError("measured again")

    assert kept(tmp_path / "one.pt", fail) == {"dice": 0.9}


@pytest.mark.parametrize("way", ADAPTER_WAYS)
def test_every_way_to_adapt_is_a_run_of_the_same_budget(way: str) -> None:
    changes = {**ADAPTER_WAYS[way], "lora.rank": 2, "adalora.initial_rank": 6}
    config = miniature("stage1", Path("d"), 200, {**changes, "adalora.target_rank": 2})
    assert config.lora.rank == config.adalora.target_rank == 2
    assert (config.adaptation.method == "adalora") == ("rank" in way or way == "AdaLoRA")
    config.adalora.check_schedule(200)


def scored(convention: str, fold: int, best: float) -> Scored:
    dices = tuple(0.9 - 0.01 * abs(threshold - best) for threshold in LOGITS)
    return Scored(convention, convention, fold, dices, again=0.5)


def test_a_threshold_is_judged_on_patients_that_did_not_choose_it() -> None:
    found = [scored("lung_field", 0, 1.5), scored("lung_field", 1, -1.0)]
    found += [scored("whole_lung", 0, 0.0), scored("whole_lung", 1, 0.0)]
    assert LOGITS[chosen_thresholds(found, "lung_field", 0)] == -1.0
    assert LOGITS[chosen_thresholds(found, "lung_field", 1)] == 1.5
    lines = {(line.way, line.source): line for line in lines_of(found)}
    assert lines["today", "lung_field"].difference == 0
    # Each is asked at the other's threshold, 2.5 from its own.
    assert lines["threshold by folds", "lung_field"].dice == pytest.approx(0.875)
    assert lines["threshold by folds", "whole_lung"].dice == pytest.approx(0.9)
    assert lines["asked again", "whole_lung"].difference == pytest.approx(-0.4)
