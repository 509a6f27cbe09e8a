"""Sums of integers in float32 that int64 arithmetic confirms, also beyond 2,080 terms."""

import numpy as np
import pytest
import torch

from model_store.int8_layers import Backend, Int8Matrix
from model_store.integers import ACTIVATION_HIGH, ACTIVATION_LOW, WEIGHT_LIMIT, ZERO_POINT
from training.quantization.exact_products import EXACT_TERMS, exact_convolution, exact_linear

VIT_B_LIN2, VIT_B_NECK, VIT_H_LIN2 = 3072, 2304, 5120


def integers(low: int, high: int, *shape: int, seed: int) -> torch.Tensor:
    values = np.random.default_rng(seed).integers(low, high + 1, shape)
    return torch.from_numpy(values).float()


@pytest.mark.parametrize("terms", [7, EXACT_TERMS, EXACT_TERMS + 1, VIT_B_NECK, VIT_B_LIN2])
@pytest.mark.parametrize("seed", range(3))
def test_sums_of_any_length_equal_int64(terms: int, seed: int) -> None:
    values = integers(ACTIVATION_LOW, ACTIVATION_HIGH, 5, terms, seed=seed)
    weight = integers(-WEIGHT_LIMIT, WEIGHT_LIMIT, 4, terms, seed=seed + 100)
    wanted = (values.long() @ weight.long().T).float()
    assert torch.equal(exact_linear(values, weight), wanted)


@pytest.mark.parametrize("terms", [VIT_B_NECK, VIT_B_LIN2, VIT_H_LIN2])
@pytest.mark.parametrize("odd", [0, 1])
def test_extremes_are_rounded_once(terms: int, odd: int) -> None:
    """Beyond 24 bits the sum is the nearest float32 to the integer, as the engine's."""
    values = torch.full((1, terms), float(ACTIVATION_LOW))
    weight = torch.full((1, terms), float(WEIGHT_LIMIT))
    values[0, 0] += odd
    exact = int((values.long() @ weight.long().T).item())
    assert abs(exact) > 2**24
    assert exact_linear(values, weight).item() == float(np.float32(exact))


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(1, 1, 0), (3, 1, 1), (4, 4, 0)])
def test_convolutions_equal_int64(kernel: int, stride: int, padding: int) -> None:
    values = integers(ACTIVATION_LOW, ACTIVATION_HIGH, 2, 256, 8, 12, seed=1)
    weight = integers(-WEIGHT_LIMIT, WEIGHT_LIMIT, 3, 256, kernel, kernel, seed=2)
    wanted = torch.nn.functional.conv2d(
        values.double(), weight.double(), stride=stride, padding=padding
    ).float()
    got = exact_convolution(values, weight, (stride, stride), (padding, padding))
    assert torch.equal(got, wanted)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("terms", [VIT_B_NECK, VIT_B_LIN2, VIT_H_LIN2])
@pytest.mark.parametrize("extreme", [False, True])
def test_the_integer_engine_agrees_beyond_2080_terms(
    backend: Backend, terms: int, extreme: bool
) -> None:
    values = integers(ACTIVATION_LOW, ACTIVATION_HIGH, 6, terms, seed=3)
    weight = integers(-WEIGHT_LIMIT, WEIGHT_LIMIT, 8, terms, seed=4)
    if extreme:
        values[:3], weight[:4] = ACTIVATION_LOW, WEIGHT_LIMIT
        values[0, 0] += 1
    matrix = Int8Matrix(weight.to(torch.int8), torch.ones(8), torch.ones(()), None)
    matrix.use_backend(backend)
    sums = matrix.accumulate((values + ZERO_POINT).to(torch.uint8))
    assert torch.equal(sums.float(), exact_linear(values, weight))
