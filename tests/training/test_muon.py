from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from training.optimizers.muon import StackedMuon, orthogonalized

COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def matrices(seed: int) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(24, 8), (8, 24), (24, 8), (16, 16), (8, 24), (24, 8)]
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def gradients(step: int) -> list[Tensor]:
    return [parameter.detach() * 0.1 for parameter in matrices(100 + step)]


def test_the_weights_move_as_with_pytorchs_own_muon() -> None:
    ours, theirs = matrices(1), matrices(1)
    settings: dict[str, Any] = {"lr": 0.02, "weight_decay": 0.1, "adjust_lr_fn": "match_rms_adamw"}
    optimizers = [StackedMuon(ours, **settings), torch.optim.Muon(theirs, **settings)]
    for step in range(4):
        for parameters, optimizer in zip((ours, theirs), optimizers, strict=True):
            for parameter, gradient in zip(parameters, gradients(step), strict=True):
                parameter.grad = gradient.clone()
            optimizer.step()
    start = matrices(1)
    for mine, reference, before in zip(ours, theirs, start, strict=True):
        moved = (reference - before).norm()
        assert moved > 0.1
        assert (mine - reference).norm() < 0.02 * moved  # products in bfloat16
    assert optimizers[0].state_dict().keys() == optimizers[1].state_dict().keys()


def test_a_matrix_without_gradient_stays() -> None:
    parameters = matrices(2)
    optimizer = StackedMuon(parameters, lr=0.1, adjust_lr_fn="match_rms_adamw")
    for parameter in parameters[1:]:
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    assert torch.equal(parameters[0], matrices(2)[0])
    assert not torch.equal(parameters[1], matrices(2)[1])


@pytest.mark.parametrize("shape", [(3, 12, 30), (3, 30, 12), (2, 16, 16)])
def test_singular_values_come_near_one(shape: tuple[int, int, int]) -> None:
    stack = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    values = torch.linalg.svdvals(orthogonalized(stack, COEFFICIENTS, 5).float())
    assert ((values > 0.3) & (values < 1.4)).all()
