"""Scales of fake quantization learn at a rate of their own, so one that starts wrong comes back."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from training.errors import ConfigError
from training.optimizers.config import OptimizerConfig
from training.optimizers.groups import build_optimizers
from training.quantization.fake_quantization import FakeQuantized, sampling

STEPS = 400


def calibrated() -> tuple[FakeQuantized, torch.Tensor]:
    torch.manual_seed(0)
    fake = FakeQuantized(nn.Linear(64, 32))
    values = torch.randn(256, 64)
    with torch.no_grad(), sampling([fake]):
        fake(values)
    return fake, values


def learned_factor(config: OptimizerConfig, wrong_by: float) -> float:
    """Train a layer whose scale starts wrong towards its float output; return how wrong it ends."""
    fake, values = calibrated()
    right = float(fake.activation_scale.detach())
    wanted = fake.source(values).detach()
    with torch.no_grad():
        fake.log_scale.add_(math.log(wrong_by))
    (optimizer,) = build_optimizers(fake.named_parameters(), config)
    for _ in range(STEPS):
        optimizer.zero_grad()
        functional.mse_loss(fake(values), wanted).backward()
        optimizer.step()
    return float(fake.activation_scale.detach()) / right


@pytest.mark.parametrize("wrong_by", [4.0, 0.25])
def test_a_scale_that_starts_four_times_wrong_comes_back(wrong_by: float) -> None:
    found = learned_factor(OptimizerConfig(learning_rate=1e-3, weight_decay=0.0), wrong_by)
    assert 0.7 < found < 1.5


def test_at_the_rate_of_all_it_stays_wrong() -> None:
    config = OptimizerConfig(learning_rate=1e-3, weight_decay=0.0, scale_rate=1.0)
    assert learned_factor(config, 4.0) > 2.5


def test_scales_and_units_are_groups_with_rates_of_their_own_and_no_decay() -> None:
    named = {
        "a.source.weight": nn.Parameter(torch.zeros(2, 2)),
        "a.log_scale": nn.Parameter(torch.zeros(())),
        "a.log_weight_scale": nn.Parameter(torch.zeros(2)),
        "a.unit": nn.Parameter(torch.zeros(2, 2)),
        "b.singular": nn.Parameter(torch.zeros(1, 2)),
    }
    config = OptimizerConfig(
        learning_rate=1e-4, singular_rate=16.0, scale_rate=10.0, unit_rate=25.0
    )
    (optimizer,) = build_optimizers(named.items(), config)
    rates = {
        name: (group["peak_lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
        for name, own in named.items()
        if own is parameter
    }
    assert rates["a.source.weight"] == (1e-4, config.weight_decay)
    assert rates["a.log_scale"] == rates["a.log_weight_scale"] == pytest.approx((1e-3, 0.0))
    assert rates["a.unit"] == pytest.approx((2.5e-3, 0.0))
    assert rates["b.singular"] == pytest.approx((1.6e-3, 0.0))


@pytest.mark.parametrize("name", ["singular_rate", "scale_rate", "unit_rate"])
def test_a_rate_that_is_not_positive_is_refused_by_name(name: str) -> None:
    with pytest.raises(ConfigError, match=f"optimizer.{name} is 0"):
        OptimizerConfig(**{name: 0})
