import pytest
import torch
from torch.nn import functional

from model_store.int8_layers import Int8Conv2d, Int8Matrix
from model_store.integers import ZERO_POINT, quantize_activation


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(1, 1, 0), (3, 1, 1), (16, 16, 0)])
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_a_convolution_is_exact(kernel: int, stride: int, padding: int, backend: str) -> None:
    generator = torch.Generator().manual_seed(kernel)
    weight = torch.randint(-63, 64, (8, 3, kernel, kernel), generator=generator)
    values = torch.randn(2, 3, 32, 32, generator=generator)
    matrix = Int8Matrix(
        weight.flatten(1).to(torch.int8), torch.ones(8), torch.tensor(0.02), torch.zeros(8)
    )
    matrix.use_backend(backend)  # type: ignore[arg-type]
    got = Int8Conv2d(matrix, kernel, stride, padding)(values)
    steps = quantize_activation(values, torch.tensor(0.02)).double() - ZERO_POINT
    wanted = functional.conv2d(steps, weight.double(), stride=stride, padding=padding) * 0.02
    torch.testing.assert_close(got.double(), wanted, rtol=1e-6, atol=1e-6)
