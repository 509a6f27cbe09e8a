"""Rounded inputs: steps of least error, the right layers, and float weights of four values."""

from __future__ import annotations

import pytest
import torch

from benchmarks.quality.few_bit_activations import (
    Steps,
    fitted_steps,
    four_levels,
    round_inputs,
    sampled_inputs,
)
from model_store.quantizable import quantizable_layers
from tests.tiny_models import make_tiny_model
from training.data.dataset import LabelledXray, load_xrays, read_rows
from training.phantom.dataset import write_phantom_dataset


@pytest.fixture(scope="module")
def xrays(tmp_path_factory: pytest.TempPathFactory) -> list[LabelledXray]:
    folder = tmp_path_factory.mktemp("activations")
    write_phantom_dataset(folder, {"train": 2, "val": 1, "test": 1}, longest_side=96)
    return load_xrays(read_rows(folder, "train"))


def error(steps: Steps, values: torch.Tensor) -> float:
    return float((steps.rounded(values) - values).square().mean())


def test_steps_around_0_have_one_more_below_it() -> None:
    steps = fitted_steps(torch.linspace(-1.0, 1.0, 1001), 4, own_lowest=False)
    found = steps.rounded(torch.linspace(-3.0, 3.0, 6001)).unique()
    assert len(found) == 16
    torch.testing.assert_close(found / steps.scale, torch.arange(-8.0, 8.0))


def test_values_after_a_gelu_lose_less_with_a_lowest_value_of_their_own() -> None:
    torch.manual_seed(0)
    values = torch.nn.functional.gelu(torch.randn(4000))
    own = error(fitted_steps(values, 4, own_lowest=True), values)
    around = error(fitted_steps(values, 4, own_lowest=False), values)
    assert own < 0.6 * around
    assert error(fitted_steps(values, 8, own_lowest=True), values) < own / 50


def test_a_far_value_is_clipped_rather_than_spread_the_steps() -> None:
    values = torch.cat([torch.linspace(-1, 1, 5000), torch.tensor([16.0])])
    assert fitted_steps(values, 4, own_lowest=False).scale < 1.0


def test_the_layers_that_are_named_see_rounded_inputs(xrays: list[LabelledXray]) -> None:
    model = make_tiny_model().eval()
    samples = sampled_inputs(model, xrays, 64)
    assert set(samples) == set(quantizable_layers(model))
    steps = {name: fitted_steps(one, 3, own_lowest=True) for name, one in samples.items()}
    round_inputs(model, steps)
    again = sampled_inputs(model, xrays, 64)
    # The hook that samples runs after the one that rounds.
    assert all(len(one.unique()) <= 8 for one in again.values())
    assert any(len(one.unique()) > 8 for one in samples.values())


def test_weights_of_four_levels_are_those_of_gptq(xrays: list[LabelledXray]) -> None:
    model = make_tiny_model().eval()
    rounded = four_levels(model, xrays, 64)
    for name, layer in quantizable_layers(rounded).items():
        before = model.get_submodule(name).weight
        assert isinstance(before, torch.Tensor) and not torch.equal(layer.weight, before)
        assert all(len(channel.unique()) <= 4 for channel in layer.weight.flatten(1))
