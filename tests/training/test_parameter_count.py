"""How many parameters train: the number that the method is chosen for."""

import json
from pathlib import Path

import pytest

from model_store.architecture import sam_config
from model_store.quantizable import quantizable_layers
from tests.tiny_models import make_tiny_config, make_tiny_model
from training.__main__ import main
from training.config import RunConfig, load_config, parse_config
from training.quantization.sensitivity.table import (
    ALL_LAYERS,
    LayerSensitivity,
    SensitivityTable,
    write_table,
)
from training.stages.baseline_stages import build_stage1
from training.stages.parameter_count import count_parameters

CONFIGS = Path(__file__).parents[2] / "training" / "configs"


def stage1(method: str) -> RunConfig:
    return parse_config({"stage": "stage1", "steps": 1000, "adaptation": {"method": method}})


def test_vit_b_trains_at_most_5_4_million() -> None:
    """As few as the reference, whose 16.6 counts against the 89.7 M of the image encoder."""
    count = count_parameters(load_config(CONFIGS / "sam_vit_b_stage1.toml"), sam_config("vit_b"))
    assert count.trainable <= 5_400_000
    assert count.base_encoder == 89_670_912
    assert count.base_encoder / count.trainable >= 16.6
    slices = 12 * 3
    assert count.parts["adapters"].trainable == slices * 24 * (768 + 1 + 768)
    assert count.parts["image encoder"].trainable == 0
    assert count.parts["mask decoder"].frozen == 0


@pytest.mark.parametrize("method", ["adalora", "lora", "decoder_only", "full"])
def test_the_count_is_that_of_the_real_stage(method: str) -> None:
    stage = build_stage1(make_tiny_model(), stage1(method))
    wanted = sum(p.numel() for _, p in stage.named_parameters())
    everything = sum(p.numel() for p in stage.model.parameters())
    count = count_parameters(stage1(method), make_tiny_config())
    assert count.trainable == wanted
    assert count.trainable + count.frozen == everything
    assert count.base == sum(p.numel() for p in make_tiny_model().parameters())


def test_stage2_counts_a_scale_per_quantized_layer(tmp_path: Path) -> None:
    plain = parse_config({"stage": "stage2", "steps": 5})
    losses = {name: 0.0 for name in (ALL_LAYERS, *quantizable_layers(make_tiny_model()))}
    losses["image_encoder.neck.0"] = 0.01
    rows = [LayerSensitivity(name, 1, lost, lost, 0.0) for name, lost in losses.items()]
    write_table(tmp_path / "table.csv", SensitivityTable.of(rows))
    table = {"sensitivity": str(tmp_path / "table.csv")}
    some = parse_config({"stage": "stage2", "steps": 5, "qat": table})
    all_scales = (
        count_parameters(plain, make_tiny_config()).parts["scales of quantization"].trainable
    )
    fewer = count_parameters(some, make_tiny_config()).parts["scales of quantization"].trainable
    assert fewer == all_scales - 1


def test_the_command_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "count.json"
    assert main(["params", "--initial-rank", "4", "--json", str(out)]) == 0
    printed = capsys.readouterr().out
    count = json.loads(out.read_text())
    assert count["parts"]["adapters"]["trainable"] == 8 * 3 * 4 * (192 + 1 + 192)
    assert f"{count['trainable']:,}" in printed and "adalora of rank 4" in printed


def test_an_unknown_variant_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["params", "--variant", "vit_q"]) == 2
    assert "variant is 'vit_q'" in capsys.readouterr().err
