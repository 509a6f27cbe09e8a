"""The sensitivity table: what it measures, and what stage 2 makes of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from model_store.artifact import read_manifest
from model_store.quantizable import quantizable_layers
from tests.tiny_models import make_tiny_config, make_tiny_model
from training.__main__ import main
from training.data.dataset import load_xrays, read_rows
from training.data.row_choice import spread
from training.errors import ConfigError
from training.evaluation.metrics import dice
from training.evaluation.probability_maps import probability_map
from training.evaluation.scores import prompt_boxes
from training.export import write_deployed
from training.phantom.dataset import write_phantom_dataset
from training.quantization.config import QatConfig
from training.quantization.fake_quantization import FakeQuantized
from training.quantization.sensitivity.choice import choose_precisions
from training.quantization.sensitivity.measurement import measure_sensitivity
from training.quantization.sensitivity.table import (
    ALL_LAYERS,
    LayerSensitivity,
    SensitivityTable,
    format_table,
    read_table,
    write_table,
)

CONFIGS = Path(__file__).parents[2] / "training" / "configs"
BRITTLE = "image_encoder.blocks.1.mlp.lin2"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sensitivity") / "data"
    write_phantom_dataset(folder, {"train": 2, "val": 2}, longest_side=96)
    return folder


def measured(data: Path, model: Any) -> SensitivityTable:
    train, val = (load_xrays(read_rows(data, split)) for split in ("train", "val"))
    return measure_sensitivity(model, train, val, 64)


def test_the_layer_that_integers_hurt_comes_first(data: Path) -> None:
    """One weight per row is enormous, so the step of its row swallows all others."""
    model = make_tiny_model()
    layer: Any = model.get_submodule(BRITTLE)
    with torch.no_grad():
        layer.weight.mul_(3.0)
        layer.weight[:, 0] = 4000.0
        before = model.image_encoder.blocks[1].mlp.lin1
        before.weight[0], before.bias[0] = 0.0, -60.0  # GELU: what it multiplies is 0
    table = measured(data, model)
    by_ssim = max(table.layers, key=lambda row: row.ssim_lost)
    assert by_ssim.layer == BRITTLE and by_ssim.ssim_lost > 0.01
    assert {row.layer for row in table.layers} == set(quantizable_layers(model))
    others = [row.ssim_lost for row in table.layers if row.layer != BRITTLE]
    assert max(others) < by_ssim.ssim_lost / 2


def test_a_row_is_what_a_model_with_that_layer_quantized_loses(data: Path) -> None:
    """Measured again by hand for a layer of the encoder and one of the decoder."""
    model, reference = make_tiny_model(), make_tiny_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    table = measured(data, model)
    assert before.keys() == model.state_dict().keys()  # the model is left as it was
    assert all(torch.equal(before[name], now) for name, now in model.state_dict().items())
    xrays = load_xrays(read_rows(data, "val"))
    for name in (BRITTLE, "mask_decoder.transformer.layers.0.mlp.lin1"):
        quantized = make_tiny_model()
        layer = FakeQuantized(quantized.get_submodule(name))  # type: ignore[arg-type]
        parent, _, child = name.rpartition(".")
        setattr(quantized.get_submodule(parent), child, layer)
        layer.samples = []
        for xray in load_xrays(read_rows(data, "train")):
            for box in prompt_boxes(xray):
                probability_map(quantized, xray, box, 64)
        layer.calibrate()
        lost: dict[str, list[float]] = {}
        for xray in xrays:
            for box in prompt_boxes(xray):
                masks = [probability_map(m, xray, box, 64) > 0.5 for m in (reference, quantized)]
                dices = [dice(mask, xray.mask) for mask in masks]
                lost.setdefault(xray.source, []).append(dices[0] - dices[1])
        wanted = sum(sum(values) / len(values) for values in lost.values()) / len(lost)
        row = next(row for row in table.layers if row.layer == name)
        assert row.dice_lost == pytest.approx(wanted, abs=2e-4)


def row(layer: str, dice_lost: float, ssim_lost: float = 0.0) -> LayerSensitivity:
    return LayerSensitivity(layer, 10, dice_lost, 2 * dice_lost, ssim_lost)


TABLE = SensitivityTable.of(
    [row(ALL_LAYERS, 0.3), row("b", 0.001, 0.1), row("a", 0.02), row("c", -0.01, 0.02)]
)


def test_layers_beyond_a_margin_stay_float() -> None:
    assert [r.layer for r in TABLE.layers] == ["a", "b", "c"]
    assert TABLE.beyond(0.02, 0.1) == ()  # exactly the margin is within it
    assert TABLE.beyond(0.0199, 1.0) == ("a",)
    assert TABLE.beyond(1.0, 0.05) == ("b",)
    assert TABLE.beyond(0.0, 0.0) == ("a", "b", "c")
    text = format_table(TABLE, 0.0199, 1.0)
    assert "1 of 3 layers lose more than 0.0199 Dice or 1 SSIM" in text
    assert [line.split()[0] for line in text.splitlines() if line.endswith("float")] == ["a"]


def test_a_table_comes_back_from_disk_as_it_was(tmp_path: Path) -> None:
    write_table(tmp_path / "new" / "table.csv", TABLE)
    assert read_table(tmp_path / "new" / "table.csv") == TABLE


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: "", "columns"),
        (lambda text: text.replace("0.02", "much", 1), "line"),
        (lambda text: text.replace(ALL_LAYERS, "all"), "no \\(all layers\\)"),
        (lambda text: text.replace("\nb,", "\na,"), "a layer twice"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, change: Any, said: str) -> None:
    path = tmp_path / "table.csv"
    write_table(path, TABLE)
    path.write_text(change(path.read_text()))
    with pytest.raises(ConfigError, match=said):
        read_table(path)


def test_a_table_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"absent\.csv cannot be read"):
        choose_precisions(QatConfig(sensitivity="absent.csv"))


def test_few_rows_are_spread_over_every_source(data: Path) -> None:
    rows = [replace(r, name=str(i)) for i, r in enumerate(read_rows(data, "val") * 3)]
    few = spread(rows, 2)
    assert [sum(r.source == s for r in few) for s in {r.source for r in rows}] == [2, 2]
    assert len({r.name for r in few}) == 4 and spread(rows, 0) == sorted(
        rows, key=lambda r: [x.source for x in rows].index(r.source)
    )


def run_stage(data: Path, work: Path, stage: str, run: str, *extra: str) -> int:
    return main(
        [stage, "--config", str(CONFIGS / f"miniature_{stage}.toml"), "--run", str(work / run),
         "--device", "cpu", "--set", f"data.root={data}", "--set", "batch_size=2", *extra]
    )  # fmt: skip


@pytest.fixture(scope="module")
def work(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stage 1 run and its sensitivity table, by the commands that a researcher types."""
    folder = tmp_path_factory.mktemp("runs")
    assert run_stage(data, folder, "pretrain", "pretrain") == 0
    assert run_stage(data, folder, "stage1", "stage1", "--base", str(folder / "pretrain")) == 0
    command = ["sensitivity", str(folder / "stage1"), "--data", str(data), "--per-source", "1"]
    command += ["--calibration", "1", "--device", "cpu", "--out", str(folder / "table.csv")]
    assert main(command) == 0
    return folder


def with_losses(table: SensitivityTable) -> SensitivityTable:
    """The same layers with losses of our choice: a run of seconds draws no masks to lose."""
    rows = [replace(r, ssim_lost=place / 100) for place, r in enumerate(table.layers)]
    return SensitivityTable.of([table.together, *rows])


def test_stage2_keeps_float_what_the_table_says_and_records_it(data: Path, work: Path) -> None:
    table = with_losses(read_table(work / "table.csv"))
    write_table(work / "table.csv", table)
    kept = {r.layer for r in sorted(table.layers, key=lambda r: -r.ssim_lost)[:2]}
    margin = f"qat.ssim_margin={(len(table.layers) - 3) / 100}"
    settings = ["--base", str(work / "stage1"), "--set", f"qat.sensitivity={work / 'table.csv'}",
                "--set", margin, "--set", "qat.dice_margin=1"]  # fmt: skip
    assert run_stage(data, work, "stage2", "stage2", *settings) == 0
    state = torch.load(work / "stage2" / "best.pt", weights_only=True)
    assert set(state["stage_state"]["float_layers"]) == kept
    scales = {n.removesuffix(".log_scale") for n in state["model"] if n.endswith(".log_scale")}
    assert scales == {r.layer for r in table.layers} - kept
    # A table that is measured again does not change a run that goes on.
    write_table(work / "table.csv", replace(table, layers=()))
    assert run_stage(data, work, "stage2", "stage2", "--resume", *settings) == 0
    write_table(work / "table.csv", table)
    assert main(["export", "--run", str(work / "stage2"), "--name", "mixed", "--version", "1",
                 "--out", str(work / "models"), "--data", str(data)]) == 0  # fmt: skip
    manifest = read_manifest(work / "models" / "mixed" / "1")
    floats = {n for n, p in manifest.quantization.layers.items() if p == "float"}
    assert floats == kept
    record = manifest.training["stages"][-1]["sensitivity"]
    assert {n for n, r in record["layers"].items() if r["precision"] == "float"} == kept
    assert record["dice_margin"] == 1
    for layer in table.layers:
        assert record["layers"][layer.layer]["ssim_lost"] == layer.ssim_lost


def test_a_table_of_another_model_is_refused(
    data: Path, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_table(work / "other.csv", TABLE)
    assert run_stage(data, work, "stage2", "other", "--base", str(work / "stage1"),
                     "--set", f"qat.sensitivity={work / 'other.csv'}") == 2  # fmt: skip
    assert "the sensitivity table is of another model" in capsys.readouterr().err


def test_a_stored_float_model_is_taken_and_integers_are_refused(
    data: Path, work: Path, tiny_artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = write_deployed(
        make_tiny_model(), make_tiny_config(), work / "models", name="tiny-float", version="1"
    ).folder
    arguments = ["--data", str(data), "--per-source", "1", "--calibration", "1", "--device", "cpu",
                 "--out", str(work / "stored.csv")]  # fmt: skip
    assert main(["sensitivity", str(stored), *arguments, "--dice-margin", "0.7"]) == 0
    assert "lose more than 0.7 Dice or 0.005 SSIM" in capsys.readouterr().out
    assert main(["sensitivity", str(tiny_artifact), *arguments]) == 2
    assert "holds integers" in capsys.readouterr().err
