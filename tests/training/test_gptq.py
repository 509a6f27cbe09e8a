"""Rounding weights by what their inputs do: scales of least squares, and GPTQ."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from model_store.integers import quantize_weight, weight_scale
from model_store.weight_levels import EIGHT_BIT_LEVELS, WeightLevels
from training.quantization.gptq import DAMPING, gptq_weight, output_error
from training.quantization.input_moments import InputMoments, input_rows, observed_inputs
from training.quantization.scale_fitting import (
    fitted_scale,
    largest_scale,
    least_squares_scale,
)


def random_layer(outputs: int, inputs: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random weights, and second moments of inputs that depend on each other."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(outputs, inputs, generator=generator)
    mixed = torch.randn(inputs, inputs, generator=generator)
    rows = torch.randn(500, inputs, generator=generator) @ mixed
    return weight, rows.T @ rows / len(rows)


def damped(moments: Tensor) -> Tensor:
    return moments + DAMPING * moments.diagonal().mean() * torch.eye(len(moments))


def error_of(weight: Tensor, integers: Tensor, scale: Tensor, moments: Tensor) -> Tensor:
    return output_error(
        weight.double(), integers.double(), scale.double(), damped(moments).double()
    )


def test_at_8_bits_the_largest_scale_is_that_of_stored_models_to_the_bit() -> None:
    weight, _ = random_layer(16, 40)
    levels = WeightLevels(EIGHT_BIT_LEVELS)
    scale = largest_scale(weight, levels)
    assert torch.equal(scale, weight_scale(weight))
    nearest = levels.nearest(weight / scale[:, None]).to(torch.int8)
    assert torch.equal(nearest, quantize_weight(weight, scale))


@pytest.mark.parametrize("count", [2, 3, 4, 7])
def test_no_scale_of_a_fine_search_errs_less_than_least_squares(count: int) -> None:
    weight, _ = random_layer(12, 64)
    levels = WeightLevels(count)

    def error(scale: Tensor) -> Tensor:
        return (levels.nearest(weight / scale[:, None]) * scale[:, None] - weight).square().sum(1)

    found = error(least_squares_scale(weight, levels))
    for share in torch.linspace(0.05, 1.5, 400):
        other = error(largest_scale(weight, levels) * share)
        assert bool((found <= other * 1.01).all())


def test_three_levels_at_the_largest_scale_are_mostly_zero_and_by_least_squares_are_not() -> None:
    weight = torch.randn(8, 256, generator=torch.Generator().manual_seed(0))
    levels = WeightLevels(3)
    zeros = [
        float((levels.nearest(weight / scale[:, None]) == 0).float().mean())
        for scale in (largest_scale(weight, levels), least_squares_scale(weight, levels))
    ]
    assert zeros[0] > 0.75
    assert zeros[1] < 0.55


def test_a_refitted_scale_is_the_minimum_of_the_quadratic_form() -> None:
    weight, moments = random_layer(6, 30)
    levels = WeightLevels(4)
    start = least_squares_scale(weight, levels)
    integers = levels.nearest(weight / start[:, None])
    scale = fitted_scale(weight, integers, moments, start)
    best = output_error(weight, integers, scale, moments)
    for share in (0.9, 0.99, 1.01, 1.1):
        assert bool((best <= output_error(weight, integers, scale * share, moments)).all())


def test_a_channel_of_zeros_keeps_the_scale_it_had() -> None:
    zeros, start = torch.zeros(2, 5), torch.tensor([0.5, 0.25])
    scale = fitted_scale(torch.ones(2, 5), zeros, torch.eye(5), start)
    assert torch.equal(scale, start)


@pytest.mark.parametrize("count", [2, 3, 4, 7, 15])
def test_gptq_errs_less_than_rounding_to_nearest_where_inputs_depend_on_each_other(
    count: int,
) -> None:
    weight, moments = random_layer(32, 200)
    levels = WeightLevels(count)
    found = gptq_weight(weight, moments, levels)
    assert set(found.integers.unique().tolist()) <= set(map(float, levels.integers))
    scale = least_squares_scale(weight, levels, moments.diagonal())
    nearest = levels.nearest(weight / scale[:, None])
    before = error_of(weight, nearest, scale, moments)
    after = error_of(weight, found.integers, found.scale, moments)
    torch.testing.assert_close(after, found.error, rtol=1e-3, atol=1e-6)
    assert bool((after <= before * 1.0001).all())
    assert float(after.sum()) < 0.7 * float(before.sum())


def test_independent_inputs_leave_gptq_nothing_to_make_up_for() -> None:
    weight, _ = random_layer(8, 60)
    levels = WeightLevels(3)
    found = gptq_weight(weight, torch.eye(60), levels)
    assert torch.equal(found.integers, levels.nearest(weight / found.scale[:, None]))


def test_gptq_comes_near_the_best_of_all_integers() -> None:
    """Six weights of three levels, small enough to try them all at the scale that it chose."""
    weight, moments = random_layer(20, 6, seed=4)
    levels = WeightLevels(3)
    found = gptq_weight(weight, moments, levels)
    every = torch.tensor(list(itertools.product(levels.integers, repeat=6)), dtype=torch.float32)
    least = torch.stack(
        [
            error_of(row.expand(len(every), -1), every, scale.expand(len(every)), moments).min()
            for row, scale in zip(weight, found.scale, strict=True)
        ]
    )
    assert bool((found.error >= least - 1e-4).all())
    assert float(found.error.sum()) < 1.5 * float(least.sum())


def test_inputs_that_are_always_zero_do_not_break_the_factor() -> None:
    weight, moments = random_layer(4, 20)
    moments[:, 3], moments[3] = 0.0, 0.0
    found = gptq_weight(weight, moments, WeightLevels(4))
    assert bool(found.scale.isfinite().all())


def test_moments_are_those_of_what_the_layer_multiplies() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Flatten(2), nn.Linear(16, 5))
    convolution, linear = model[0], model[2]
    assert isinstance(convolution, nn.Conv2d)
    assert isinstance(linear, nn.Linear)
    images = torch.randn(2, 3, 8, 8)
    with observed_inputs({"0": convolution, "2": linear}) as found, torch.no_grad():
        model(images)
        model(images + 1)
    assert found["0"].count == 2 * 2 * 16
    rows = torch.cat([input_rows(convolution, images), input_rows(convolution, images + 1)])
    assert convolution.bias is not None
    product = rows @ convolution.weight.flatten(1).T + convolution.bias
    wanted = torch.cat([convolution(images), convolution(images + 1)]).flatten(2).transpose(1, 2)
    torch.testing.assert_close(product, wanted.flatten(0, 1), rtol=1e-4, atol=1e-5)
    moments = found["0"].second(about_mean=False)
    torch.testing.assert_close(moments.float(), rows.T @ rows / len(rows), rtol=1e-4, atol=1e-5)
    about_mean = found["0"].second(about_mean=True)
    torch.testing.assert_close(
        about_mean.float(), torch.cov(rows.T, correction=0), rtol=1e-3, atol=1e-4
    )
    model(images)  # outside the block nothing is watched
    assert found["0"].count == 64


def test_moments_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="no inputs were seen"):
        InputMoments.of(nn.Linear(3, 2)).second(about_mean=False)
