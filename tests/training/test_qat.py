"""Quantization-aware training as a whole: what is frozen, what learns, what is deployed."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from model_store.prediction import PredictionRequest
from model_store.predictor import Predictor
from tests.tiny_models import make_tiny_config, make_tiny_model
from training.__main__ import main
from training.acceleration.activation_checkpointing import recompute_encoder_blocks
from training.adapters.adalora import AdaLoraLinear
from training.adapters.adapted_model import add_adapters, find_layers
from training.adapters.config import AdaLoraConfig
from training.checkpoint import LATEST
from training.data.dataset import LabelledXray, load_xrays, read_rows
from training.evaluation.scores import prompt_boxes
from training.export import write_deployed
from training.phantom.dataset import write_phantom_dataset
from training.quantization.config import QatConfig
from training.quantization.fake_quantization import FakeQuantized, sampling
from training.run import validation
from training.run.validation import masks_of_each
from training.stages.qat_stage import QatStage

ADALORA = AdaLoraConfig(initial_rank=4, target_rank=2, warmup_steps=1, final_steps=1)
CONFIGS = Path(__file__).parents[2] / "training" / "configs"
BOXES = torch.tensor([[4.0, 4.0, 60.0, 60.0], [0.0, 0.0, 30.0, 64.0], [9.0, 5.0, 40.0, 50.0]])


def make_stage(seed: int = 0) -> QatStage:
    """A calibrated stage 2 with adapters of which half the triplets are cut."""
    model = make_tiny_model(seed)
    for adapter in add_adapters(model, ADALORA).values():
        with torch.no_grad():
            adapter.singular.normal_(0.0, 0.3)
            adapter.mask[:, ::2] = 0
    stage = QatStage(model, QatConfig())
    with torch.no_grad(), sampling(stage.layers.values()):
        model(*inputs(model, 3))
    return stage


def inputs(model: nn.Module, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    pixels = torch.rand(count, 1, 64, 64, generator=torch.Generator().manual_seed(1)) * 255
    return model.normalize(pixels), BOXES[:count], torch.arange(count)  # type: ignore[operator]


def test_a_cut_triplet_stays_cut_and_the_others_learn() -> None:
    stage = make_stage()
    adapters = find_layers(stage.model, AdaLoraLinear)
    before = {name: copy.deepcopy(adapter.state_dict()) for name, adapter in adapters.items()}
    optimizer = torch.optim.SGD([p for _, p in stage.named_parameters()], lr=0.01)
    stage.model.train()
    for step in range(3):
        optimizer.zero_grad()
        logits, quality = stage.model(*inputs(stage.model, 3))
        (logits.square().mean() + quality.square().mean()).backward()
        stage.after_backward(step)
        optimizer.step()
        stage.after_step(step)
    for name, adapter in adapters.items():
        was, kept = before[name], adapter.mask.bool()
        assert torch.equal(adapter.mask, was["mask"])
        assert torch.equal(adapter.base.weight, was["base.weight"])
        assert torch.equal(adapter.singular[~kept], was["singular"][~kept])
        assert not torch.equal(adapter.P, was["P"]) and not torch.equal(adapter.Q, was["Q"])
        moved = (adapter.singular != was["singular"])[kept]
        assert bool(moved.all()), name
    for name, layer in stage.layers.items():  # every activation scale learns
        assert layer.log_scale.grad is not None and layer.log_scale.grad.item() != 0, name


def test_nothing_is_observed_once_calibrated() -> None:
    """Neither training passes nor evaluation, on inputs of any size, move a scale or a buffer."""
    stage = make_stage()
    before = {name: tensor.clone() for name, tensor in stage.model.state_dict().items()}
    normalized, boxes, index = inputs(stage.model, 3)
    for training in (True, False):
        stage.model.train(training)
        with torch.no_grad():
            stage.model(100 * normalized, boxes, index)
    assert all(torch.equal(before[n], t) for n, t in stage.model.state_dict().items())
    assert all(layer.samples is None for layer in stage.layers.values())


@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_a_layer_answers_each_input_as_if_alone(kind: str) -> None:
    torch.manual_seed(3)
    layer: nn.Linear | nn.Conv2d = nn.Linear(48, 24)
    values = torch.randn(4, 7, 48)
    if kind == "convolution":
        layer, values = nn.Conv2d(4, 6, 3, padding=1), torch.randn(4, 4, 8, 8)
    fake = FakeQuantized(layer)
    with torch.no_grad():
        fake.log_scale.fill_(-3.0)
        alone = fake(values[:1])
        values[1:] *= 1000.0  # neighbours as extreme as can be
        assert torch.equal(fake(values)[:1], alone)


def lsq_gradient(
    values: np.ndarray, weight: np.ndarray, scale: float, upstream: np.ndarray
) -> float:
    """d loss / d scale in float64, from Esser et al., equations 1 and 3.

    x_hat = s * clip(round(x / s)), and d x_hat / d s is round(x / s) - x / s inside the clip
    range, its bound outside.
    """
    steps = values / scale
    inside = (steps > -128) & (steps < 127)
    derivative = np.where(inside, np.round(steps) - steps, np.clip(steps, -128, 127))
    limit = np.abs(weight).max(axis=1, keepdims=True) / 63
    stored = np.round(weight / limit) * limit
    return float(((upstream @ stored) * derivative).sum())


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("scale", [0.004, 0.02, 0.3])  # most clipped, some clipped, none
def test_the_gradient_of_the_scale_is_that_of_lsq(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    values, weight = rng.normal(size=(9, 16)), rng.normal(size=(5, 16))
    upstream = rng.normal(size=(9, 5))
    source = nn.Linear(16, 5, bias=False)
    fake = FakeQuantized(source)
    with torch.no_grad():
        source.weight.copy_(torch.from_numpy(weight))
        fake.log_scale.fill_(float(np.log(scale)))
    rounded = values.astype(np.float32)
    exact_scale = float(fake.activation_scale.detach())
    (fake(torch.from_numpy(rounded)) * torch.from_numpy(upstream).float()).sum().backward()
    assert fake.log_scale.grad is not None
    stored = source.weight.detach().numpy().astype(np.float64)
    wanted = lsq_gradient(rounded.astype(np.float64), stored, exact_scale, upstream)
    size = np.abs(upstream @ stored).sum()  # what cancels in the sum
    assert fake.log_scale.grad.item() == pytest.approx(
        wanted * exact_scale, rel=1e-4, abs=1e-6 * size * exact_scale
    )


def test_the_gradient_of_the_scale_is_the_slope_where_there_is_one() -> None:
    """Where all is clipped the output is linear in the scale: finite differences agree."""
    torch.manual_seed(0)
    fake = FakeQuantized(nn.Linear(8, 3))
    values = torch.randn(5, 8).sign() * 50.0

    def output(log_scale: float) -> float:
        with torch.no_grad():
            fake.log_scale.fill_(log_scale)
            return float(fake(values).double().square().sum())

    start, step = -4.0, 1e-2
    slope = (output(start + step) - output(start - step)) / (2 * step)
    with torch.no_grad():
        fake.log_scale.fill_(start)
    fake(values).square().sum().backward()
    assert fake.log_scale.grad is not None
    assert fake.log_scale.grad.item() == pytest.approx(slope, rel=1e-3)


def test_straight_through_gradients_of_weight_and_input() -> None:
    """As if nothing were rounded, except that clipped inputs get none and give their bound."""
    torch.manual_seed(5)
    source = nn.Linear(6, 4)
    fake = FakeQuantized(source)
    with torch.no_grad():
        fake.log_scale.fill_(float(np.log(0.01)))
    values = torch.tensor([[0.3, -0.7, 1.2699, 1.2701, -1.2799, -9.0]], requires_grad=True)
    upstream = torch.randn(1, 4)
    (fake(values) * upstream).sum().backward()
    weight = source.weight
    per_channel = weight.detach().abs().amax(dim=1, keepdim=True) / 63
    stored = torch.round(weight.detach() / per_channel) * per_channel
    inside = torch.tensor([[True, True, True, False, True, False]])
    assert values.grad is not None and weight.grad is not None
    torch.testing.assert_close(values.grad, (upstream @ stored) * inside)
    read = (torch.round(values.detach() / 0.01)).clamp(-128, 127) * 0.01
    torch.testing.assert_close(weight.grad, upstream.T @ read)
    assert source.bias is not None
    torch.testing.assert_close(source.bias.grad, upstream[0])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("qat") / "data"
    write_phantom_dataset(folder, {"train": 4, "val": 4}, longest_side=160)
    return folder


def stored_masks(folder: Path, xrays: Sequence[LabelledXray]) -> list[np.ndarray]:
    predictor = Predictor.load(folder, "cpu")
    return [
        answer.mask
        for xray in xrays
        for answer in predictor.predict(
            PredictionRequest(xray.image, prompt_boxes(xray), xray.convention)
        ).masks
    ]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("recompute", [False, True])
def test_validation_sees_the_masks_of_the_stored_model(
    data: Path, tmp_path: Path, seed: int, recompute: bool
) -> None:
    stage = make_stage(seed)
    if recompute:
        recompute_encoder_blocks(stage.model)
    xrays = load_xrays(read_rows(data, "val"))
    validated = [m for pair in masks_of_each(stage.deployed(), xrays, 64) for m in pair]
    assert any(mask.any() and not mask.all() for mask in validated)
    folder = write_deployed(
        make_stage(seed).model, make_tiny_config(), tmp_path, name="tiny", version="1"
    ).folder
    for mine, stored in zip(validated, stored_masks(folder, xrays), strict=True):
        assert np.array_equal(mine, stored)


def test_validating_leaves_the_training_model_as_it_was() -> None:
    stage = make_stage()
    before = {name: tensor.clone() for name, tensor in stage.model.state_dict().items()}
    stage.deployed()
    assert set(find_layers(stage.model, FakeQuantized)) == set(stage.layers)
    assert all(torch.equal(before[n], t) for n, t in stage.model.state_dict().items())
    assert all(p.requires_grad for _, p in stage.named_parameters())


def test_the_exported_masks_are_those_of_the_last_validation(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the commands: every mask of the last validation, to the pixel."""
    seen: list[list[np.ndarray]] = []
    original = validation.masks_of_each

    def remembered(*arguments: object) -> list[tuple[np.ndarray, np.ndarray]]:
        pairs = list(original(*arguments))  # type: ignore[arg-type]
        seen.append([mask for pair in pairs for mask in pair])
        return pairs

    base: str | None = None
    for stage, steps in (("pretrain", 40), ("stage1", 12), ("stage2", 12)):
        command = [stage, "--config", str(CONFIGS / f"miniature_{stage}.toml"), "--device", "cpu",
                   "--run", str(tmp_path / stage), "--set", f"data.root={data}",
                   "--set", f"steps={steps}", "--set", "data.workers=0"]  # fmt: skip
        if stage == "stage2":
            monkeypatch.setattr(validation, "masks_of_each", remembered)
        assert main([*command, *(["--base", base] if base else [])]) == 0
        base = str(tmp_path / stage)
    latest = tmp_path / "stage2" / LATEST
    assert main(["export", "--run", str(latest), "--name", "last", "--version", "1",
                 "--out", str(tmp_path / "models"), "--data", str(data)]) == 0  # fmt: skip
    stored = stored_masks(tmp_path / "models" / "last" / "1", load_xrays(read_rows(data, "val")))
    assert any(mask.any() and not mask.all() for mask in stored)
    for mine, theirs in zip(seen[-1], stored, strict=True):
        assert np.array_equal(mine, theirs)
