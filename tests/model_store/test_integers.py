"""The integer scheme against NumPy int64, on every backend and every instruction set here."""

import json
import os
import platform
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model_store.int8_layers import Int8Linear, Int8Matrix
from model_store.integers import (
    WEIGHT_LIMIT,
    ZERO_POINT,
    quantize_activation,
    quantize_weight,
    reference_accumulate,
    weight_scale,
)

SHAPES = [(1, 8, 8), (7, 128, 64), (256, 192, 576), (64, 1152, 128), (33, 2080, 17)]
PATTERNS = ["random", "extremes"]


def make_integers(shape: tuple[int, int, int], pattern: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Activations (M, K) and weights (N, K); extremes drive every pair sum to its limit."""
    rows, terms, outputs = shape
    generator = torch.Generator().manual_seed(rows * terms)
    activation = torch.randint(0, 256, (rows, terms), generator=generator, dtype=torch.uint8)
    weight = torch.randint(
        -WEIGHT_LIMIT, WEIGHT_LIMIT + 1, (outputs, terms), generator=generator, dtype=torch.int8
    )
    if pattern == "extremes":
        activation[0::2], activation[1::2] = 255, 0
        weight[0::2], weight[1::2] = WEIGHT_LIMIT, -WEIGHT_LIMIT
    return activation, weight


def largest_cpu_error(limit: int = WEIGHT_LIMIT) -> float:
    """Largest difference of the CPU backend from int64, over shapes and patterns."""
    worst = 0.0
    for shape in SHAPES:
        for pattern in PATTERNS:
            activation, weight = make_integers(shape, pattern)
            weight = torch.where(weight.abs() == WEIGHT_LIMIT, weight.sign() * limit, weight)
            matrix = Int8Matrix(
                weight.to(torch.int8), torch.ones(shape[2]), torch.ones(()), torch.zeros(shape[2])
            )
            matrix.use_backend("cpu")
            got = matrix.accumulate(activation).to(torch.float64)
            wanted = reference_accumulate(activation, matrix.weight).to(torch.float64)
            worst = max(worst, float((got - wanted).abs().max()))
    return worst


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_reference_equals_numpy_int64(shape: tuple[int, int, int], pattern: str) -> None:
    activation, weight = make_integers(shape, pattern)
    wanted = (activation.numpy().astype(np.int64) - ZERO_POINT) @ weight.numpy().astype(np.int64).T
    assert np.array_equal(reference_accumulate(activation, weight).numpy(), wanted)


def _error_under(instruction_set: str, limit: int) -> float:
    code = (
        "import json, torch; torch.set_num_threads(1); import tests.model_store.test_integers as t;"
        f"print(json.dumps(t.largest_cpu_error({limit})))"
    )
    environment = {
        **os.environ,
        "ONEDNN_MAX_CPU_ISA": instruction_set,
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
    )
    return float(json.loads(result.stdout))


@pytest.mark.parametrize("instruction_set", ["DEFAULT", "AVX2", "SSE41"])
def test_the_cpu_backend_is_exact_on_every_instruction_set(instruction_set: str) -> None:
    assert _error_under(instruction_set, WEIGHT_LIMIT) == 0.0


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="a trap of x86 CPUs")
def test_the_limit_is_needed() -> None:
    """Full-range weights saturate on AVX2 without VNNI: the trap that ±63 avoids is real."""
    assert _error_under("AVX2", 127) > 1000


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(1e-6, 1e6))
def test_weights_come_back_within_half_a_step(seed: int, size: float) -> None:
    weight = torch.from_numpy(
        np.random.default_rng(seed).normal(0, size, (4, 24)).astype(np.float32)
    )
    scale = weight_scale(weight)
    integers = quantize_weight(weight, scale)
    assert int(integers.abs().max()) == WEIGHT_LIMIT
    error = (integers.float() * scale[:, None] - weight).abs()
    assert (error <= 0.501 * scale[:, None]).all()


def test_an_all_zero_channel_stays_zero() -> None:
    weight = torch.zeros(2, 3)
    assert not quantize_weight(weight, weight_scale(weight)).any()


@settings(deadline=None)
@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=50), st.floats(1e-3, 10))
def test_activations_clip_and_round_to_even(values: list[float], scale: float) -> None:
    tensor, step = torch.tensor(values), torch.tensor(scale)
    got = quantize_activation(tensor, step).numpy().astype(int)
    quotient = np.array(values, np.float32) / np.float32(scale)
    assert np.array_equal(got, np.clip(np.rint(quotient), -128, 127).astype(int) + 128)


@pytest.mark.parametrize("bias", [True, False])
def test_cpu_and_reference_layers_agree(bias: bool) -> None:
    activation_scale = torch.tensor(0.035)  # covers 4.4 deviations
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(48, 96, generator=generator)
    scale = weight_scale(weight)
    layers = []
    for backend in ("reference", "cpu"):
        offset = torch.linspace(-1, 1, 48) if bias else None
        matrix = Int8Matrix(quantize_weight(weight, scale), scale, activation_scale, offset)
        matrix.use_backend(backend)
        layers.append(Int8Linear(matrix))
    values = torch.randn(5, 7, 96, generator=generator)
    assert torch.equal(layers[0](values), layers[1](values))
    torch.testing.assert_close(
        layers[0](values),
        torch.nn.functional.linear(values, weight, torch.linspace(-1, 1, 48) if bias else None),
        rtol=0.1,
        atol=0.6,
    )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_product_meant_for_gpus_is_exact(shape: tuple[int, int, int], pattern: str) -> None:
    """The padding around ``torch._int_mm`` is the same on any device; here it runs on the CPU."""
    activation, weight = make_integers(shape, pattern)
    matrix = Int8Matrix(weight, torch.ones(shape[2]), torch.ones(()), None)
    matrix.use_backend("cuda")
    wanted = reference_accumulate(activation, weight)
    assert torch.equal(matrix.accumulate(activation).long(), wanted)
