"""Weights of few levels: training equals the engine, integers move, and what is exported is it."""

from __future__ import annotations

import copy
import typing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from model_store.int8_layers import Backend, Int8Matrix
from model_store.predictor import Predictor
from model_store.sam import PromptableSam
from model_store.weight_levels import WeightLevels
from tests.tiny_models import make_tiny_config, make_tiny_model
from training.__main__ import main
from training.checkpoint import load_checkpoint
from training.config import load_config
from training.data.dataset import load_xrays, read_rows
from training.data.row_choice import spread
from training.errors import ConfigError
from training.export import write_deployed
from training.phantom.dataset import write_phantom_dataset
from training.quantization.calibration import round_by_xrays
from training.quantization.config import LevelCount, QatConfig
from training.quantization.fake_quantization import FakeQuantized, sampling, step_range
from training.quantization.few_level_layer import FARTHEST_START, FewLevelQuantized
from training.quantization.post_training import (
    ROUNDINGS,
    Rounding,
    add_few_levels,
    float_layer_names,
    round_weights,
)
from training.quantization.quantized_model import to_deployed
from training.run.assembly import prepare_run
from training.run.feature_imitation import FeatureImitation
from training.run.validation import masks_of_each
from training.stages.base import load_base

CONFIGS = Path(__file__).parents[2] / "training" / "configs"
CPU = torch.device("cpu")


def make_source(kind: str, seed: int) -> tuple[nn.Linear | nn.Conv2d, Tensor]:
    torch.manual_seed(seed)
    if kind == "linear":
        return nn.Linear(96, 40), torch.randn(5, 7, 96)
    return nn.Conv2d(4, 8, 3, padding=1), torch.randn(2, 4, 12, 12)


def model_inputs(model: PromptableSam, seed: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    pixels = torch.rand(3, 1, 64, 64, generator=torch.Generator().manual_seed(seed)) * 255
    boxes = torch.tensor([[4.0, 4.0, 60.0, 60.0], [0.0, 0.0, 30.0, 64.0], [9.0, 5.0, 40.0, 50.0]])
    return model.normalize(pixels), boxes, torch.arange(3)


@pytest.mark.parametrize("kind", ["linear", "conv"])
@pytest.mark.parametrize("count", [2, 3, 4, 7])
@pytest.mark.parametrize("scale", [0.003, 0.02, 0.3])  # clipping hard, barely, and coarse
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_the_engine_computes_what_training_computed(
    kind: str, count: int, scale: float, backend: Backend
) -> None:
    source, values = make_source(kind, count)
    fake = FewLevelQuantized(source, WeightLevels(count))
    fake.log_scale.data.fill_(torch.tensor(scale).log())
    integers = fake.to_integers()
    assert set(integers.matrix.weight.unique().tolist()) <= set(WeightLevels(count).integers)
    integers.matrix.use_backend(backend)
    with torch.no_grad():
        assert torch.equal(fake(values), integers(values))


@pytest.mark.parametrize("count", [2, 3, 4])
def test_a_unit_starts_on_its_own_side_of_the_border(count: int) -> None:
    levels = WeightLevels(count)
    source, _ = make_source("linear", 1)
    fake = FewLevelQuantized(source, levels)
    digits = torch.randint(0, count, source.weight.shape)
    wanted = (digits * levels.spacing - levels.largest).float()
    fake.start_at(wanted, torch.rand(40) * 0.1 + 0.01)
    assert torch.equal(levels.nearest(fake.unit.detach()), wanted)
    farthest = FARTHEST_START * levels.spacing
    assert float((fake.unit.detach() - wanted).abs().max()) == pytest.approx(farthest, rel=1e-5)


def test_the_gradient_reaches_unit_and_scale_as_if_nothing_were_rounded() -> None:
    source, values = make_source("linear", 2)
    fake = FewLevelQuantized(source, WeightLevels(4))
    with torch.no_grad():
        fake.log_scale.fill_(-3.0)
        read = torch.round(values / fake.activation_scale).clamp(-128, 127) * fake.activation_scale
    upstream = torch.randn(5, 7, 40)
    (fake(values) * upstream).sum().backward()
    assert fake.unit.grad is not None and fake.log_weight_scale.grad is not None
    of_weight = torch.einsum("abn,abk->nk", upstream, read)  # of the weight that is multiplied by
    scale = fake.log_weight_scale.detach().exp()
    torch.testing.assert_close(fake.unit.grad, of_weight * scale[:, None], rtol=1e-3, atol=1e-4)
    nearest = fake.levels.nearest(fake.unit.detach())
    wanted = (of_weight * nearest).sum(dim=1) * scale
    torch.testing.assert_close(fake.log_weight_scale.grad, wanted, rtol=1e-3, atol=1e-3)
    assert source.weight.grad is None


def test_gptq_leaves_less_error_in_the_masks_than_nearest_and_that_less_than_the_largest() -> None:
    """Logits of a tiny SAM whose layers see correlated inputs, against the float ones."""
    model = make_tiny_model(2)
    inputs = [model_inputs(model, seed) for seed in range(8)]
    with torch.no_grad():
        wanted = model(*inputs[0])[0]
    errors: dict[Rounding, float] = {}
    for rounding in ROUNDINGS:
        copied = copy.deepcopy(model)
        layers = add_few_levels(copied, WeightLevels(3), float_layer_names(copied))
        round_weights(copied, layers, inputs, rounding)
        to_deployed(copied)
        with torch.no_grad():
            errors[rounding] = float((copied(*inputs[0])[0] - wanted).square().mean())
    assert errors["gptq"] < errors["least_squares"] < errors["largest"]


def test_features_of_the_same_model_cost_nothing_and_of_another_something() -> None:
    teacher, student = make_tiny_model(1), make_tiny_model(1)
    imitation = FeatureImitation(student, teacher, 2.0)
    inputs = model_inputs(teacher)
    with torch.no_grad():
        student(*inputs)
        teacher(*inputs)
        assert float(imitation.loss()) == 0.0
        student.image_encoder.blocks[1].mlp.lin2.weight.mul_(0.5)
        student(*inputs)
    one_off = float(imitation.loss().detach())
    assert one_off > 0.0
    with torch.no_grad():
        student.image_encoder.patch_embed.proj.weight.mul_(-1.0)
    student(*inputs)
    loss = imitation.loss()
    assert float(loss.detach()) > one_off
    loss.backward()
    assert student.image_encoder.blocks[0].attn.qkv.weight.grad is not None


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("few") / "data"
    write_phantom_dataset(folder, {"train": 4, "val": 2}, longest_side=96)
    return folder


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("few_twin")
    model = make_tiny_model(4)
    return write_deployed(model, make_tiny_config(), out, name="tiny-float", version="1").folder


def settings(data: Path, twin: Path, **changes: Any) -> dict[str, Any]:
    plain = {
        "data.root": str(data), "data.repeats": {}, "data.workers": 0, "data.cached_side": 96,
        "steps": 6,
        "batch_size": 2, "loss_size": 32, "teacher.models": [str(twin)], "qat.weight_levels": 4,
        "qat.calibration_batches": 2, "optimizer.unit_rate": 3000.0,
    }  # fmt: skip
    return {**plain, **{name.replace("__", "."): value for name, value in changes.items()}}


def test_integers_move_in_training_and_the_stored_model_is_the_validated_one(
    data: Path, twin: Path, tmp_path: Path
) -> None:
    config = load_config(CONFIGS / "cxr_lung_tiny_w2_stage2.toml", settings(data, twin))
    loop = prepare_run(config, twin, tmp_path / "run", resume=False, device=CPU)
    fakes = {n: m for n, m in loop.stage.model.named_modules() if isinstance(m, FewLevelQuantized)}
    before = {name: fake.stored_weight()[0] for name, fake in fakes.items()}
    assert loop.run() is not None
    moved = sum(int((fake.stored_weight()[0] != before[n]).sum()) for n, fake in fakes.items())
    assert moved > 0
    command = ["export", "--run", str(tmp_path / "run" / "latest.pt"), "--name", "tiny-w2"]
    command += ["--version", "1", "--out", str(tmp_path / "models"), "--data", str(data)]
    assert main(command) == 0
    predictor = Predictor.load(tmp_path / "models" / "tiny-w2" / "1", "cpu")
    manifest = predictor.info.manifest
    assert predictor.info.weight_bits == 2
    assert manifest.training["stages"][-1]["weight_levels"] == 4
    card = (tmp_path / "models" / "tiny-w2" / "1" / "README.md").read_text()
    assert "weights stored in 2 bits" in card and "weight_levels 4" in card
    stored = {n: m for n, m in predictor.model.named_modules() if isinstance(m, Int8Matrix)}
    for name, fake in fakes.items():
        assert torch.equal(stored[f"{name}.matrix"].weight, fake.stored_weight()[0])
    xrays = load_xrays(read_rows(data, "val"))
    mine = [m for pair in masks_of_each(loop.stage.deployed(), xrays, 64) for m in pair]
    theirs = [m for pair in masks_of_each(predictor.model, xrays, 64) for m in pair]
    # Floats are stored in float16, so an undecided pixel may tip.
    assert np.mean([(a == b).mean() for a, b in zip(mine, theirs, strict=True)]) > 0.99


def test_a_stopped_run_goes_on_as_if_it_had_not_been(
    data: Path, twin: Path, tmp_path: Path
) -> None:
    config = load_config(CONFIGS / "cxr_lung_tiny_w2_stage2.toml", settings(data, twin))
    whole = prepare_run(config, twin, tmp_path / "whole", resume=False, device=CPU)
    whole.run()
    part = prepare_run(config, twin, tmp_path / "part", resume=False, device=CPU)
    part.run(should_stop=lambda: part.step >= 3)
    assert part.step == 3
    again = prepare_run(config, twin, tmp_path / "part", resume=True, device=CPU)
    again.run()
    assert again.weights_sha256() == whole.weights_sha256()
    base = load_base(tmp_path / "part" / "latest.pt")
    assert any(isinstance(m, FewLevelQuantized) for m in base.model.modules())


def test_frozen_integers_stay_while_scales_and_biases_learn(
    data: Path, twin: Path, tmp_path: Path
) -> None:
    changes = settings(data, twin, qat__integers_learn=False)
    config = load_config(CONFIGS / "cxr_lung_tiny_w2_stage2.toml", changes)
    loop = prepare_run(config, twin, tmp_path / "run", resume=False, device=CPU)
    before = {name: value.clone() for name, value in loop.stage.model.state_dict().items()}
    loop.run()
    moved = {n for n, value in loop.stage.model.state_dict().items() if (value != before[n]).any()}
    assert not any(name.endswith(".unit") for name in moved)
    for part in (".log_weight_scale", ".log_scale", "norm1.weight", ".bias"):
        assert any(name.endswith(part) for name in moved), part
    with pytest.raises(ConfigError, match="integers_learn is false; with qat"):
        load_config(
            CONFIGS / "cxr_lung_tiny_w2_stage2.toml",
            settings(data, twin, qat__integers_learn=False, qat__weight_levels=127),
        )


@pytest.mark.parametrize("bits", [3, 4, 6])
def test_an_input_of_few_bits_has_no_more_steps_than_they_allow(bits: int) -> None:
    source, values = make_source("linear", 3)
    fake = FewLevelQuantized(source, WeightLevels(4), bits)
    with sampling([fake]):
        fake(values)
    read: list[Tensor] = []
    product = fake._product
    fake._product = lambda v, w: (read.append(v.detach()), product(v, w))[1]  # type: ignore[assignment, method-assign, func-returns-value]
    fake(values * 9.0)  # clipped at both ends
    assert len(read[0].unique()) == 2**bits
    assert (float(read[0].min()), float(read[0].max())) == (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    # The calibrated scale is of least error: both its neighbours read the samples worse.
    low, high = step_range(bits)
    errors = []
    for factor in (0.8, 1.0, 1.25):
        scale = float(fake.activation_scale.detach()) * factor
        steps = torch.round(values / scale).clamp(low, high)
        errors.append(float((steps * scale - values).square().mean()))
    assert errors[1] == min(errors)


@pytest.mark.parametrize("levels", [4, 127])
def test_activations_of_four_bits_train_and_are_validated_but_not_exported(
    levels: int, data: Path, twin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = settings(data, twin, qat__activation_bits=4, qat__weight_levels=levels, steps=3)
    changes["qat.train_base"] = levels == 127
    config = load_config(CONFIGS / "cxr_lung_tiny_w2_stage2.toml", changes)
    loop = prepare_run(config, twin, tmp_path / "run", resume=False, device=CPU)
    assert loop.run() is not None
    base = load_base(tmp_path / "run" / "latest.pt")
    fakes = [m for m in base.model.modules() if isinstance(m, FakeQuantized)]
    assert fakes and {fake.activation_bits for fake in fakes} == {4}
    assert base.lineage[-1]["activation_bits"] == 4
    # What is validated has four bits: it equals the loaded run, and differs from eight bits.
    inputs = model_inputs(base.model)
    with torch.no_grad():
        mine = loop.stage.deployed()(*inputs)[0]
        assert torch.equal(mine, base.model.eval()(*inputs)[0])
        for fake in fakes:
            fake.activation_bits = 8
        assert not torch.equal(mine, base.model(*inputs)[0])
    command = ["export", "--run", str(tmp_path / "run" / "latest.pt"), "--name", "tiny-a4"]
    command += ["--version", "1", "--out", str(tmp_path / "models"), "--data", str(data)]
    assert main(command) == 2
    assert "qat.activation_bits is 4; engines execute 8" in capsys.readouterr().err
    assert not (tmp_path / "models").exists()


def test_without_steps_the_run_is_gptq_alone(data: Path, twin: Path, tmp_path: Path) -> None:
    config = load_config(CONFIGS / "cxr_lung_tiny_w2_stage2.toml", settings(data, twin, steps=0))
    prepare_run(config, twin, tmp_path / "run", resume=False, device=CPU).run()
    state = load_checkpoint(tmp_path / "run" / "latest.pt")
    assert state["step"] == 0
    unit = state["model"]["image_encoder.blocks.0.attn.qkv.unit"]
    plain = load_base(twin).model.image_encoder.blocks[0].attn.qkv.weight
    scale = state["model"]["image_encoder.blocks.0.attn.qkv.log_weight_scale"].exp()
    levels = WeightLevels(4)
    nearest = levels.nearest(plain / scale[:, None])
    share = float((levels.nearest(unit) != nearest).float().mean())
    assert 0.02 < share < 0.6  # GPTQ chose otherwise where inputs depend on each other
    # To the bit what rounding without training finds, from X-rays that training did not change.
    rounded = load_base(twin).model
    xrays = spread(load_xrays(read_rows(data, "train"), 96), 2)
    assert len(xrays) == 4  # two batches of two
    round_by_xrays(rounded, xrays, 64, 4)
    found = rounded.state_dict()
    for name in [one for one in found if one.endswith(("unit", "scale", "bias"))]:
        assert torch.equal(found[name], state["model"][name]), name


def test_an_8_bit_stage_starts_from_a_stored_float_model_too(
    data: Path, twin: Path, tmp_path: Path
) -> None:
    changes = settings(data, twin, qat__weight_levels=127, qat__train_base=True, steps=2)
    config = load_config(CONFIGS / "cxr_lung_tiny_w2_stage2.toml", changes)
    prepare_run(config, twin, tmp_path / "run", resume=False, device=CPU).run()
    command = ["export", "--run", str(tmp_path / "run"), "--name", "tiny", "--version", "1",
               "--out", str(tmp_path / "models"), "--data", str(data)]  # fmt: skip
    assert main(command) == 0
    info = Predictor.load(tmp_path / "models" / "tiny" / "1", "cpu").info
    assert (info.precision, info.weight_bits) == ("int8", 8)


def test_a_teacher_of_other_sizes_cannot_be_imitated_block_by_block(
    data: Path, twin: Path, tmp_path: Path
) -> None:
    other = make_tiny_model(5, embed_dim=16)
    folder = write_deployed(
        other, make_tiny_config(embed_dim=16), tmp_path, name="other", version="1"
    ).folder
    changes = settings(data, twin, teacher__models=[str(folder)])
    config = load_config(CONFIGS / "cxr_lung_tiny_w2_stage2.toml", changes)
    with pytest.raises(ConfigError, match="other sizes"):
        prepare_run(config, twin, tmp_path / "run", resume=False, device=CPU)
    with pytest.raises(ConfigError, match="imitates one teacher"):
        load_config(
            CONFIGS / "cxr_lung_tiny_w2_stage2.toml", settings(data, twin, teacher__models=[])
        )


def test_the_settings_know_every_count_that_can_be_stored() -> None:
    counts = set(typing.get_args(LevelCount))
    assert counts == {count for count in range(300) if can_be_stored(count)}


def can_be_stored(count: int) -> bool:
    try:
        return WeightLevels(count).count == count
    except ValueError:
        return False


@pytest.mark.parametrize("count", [1, 17, 128])
def test_levels_that_cannot_be_stored_are_refused(count: int) -> None:
    with pytest.raises(ConfigError, match=f"qat.weight_levels is {count}; it must be one of"):
        QatConfig(weight_levels=count)  # type: ignore[arg-type]
