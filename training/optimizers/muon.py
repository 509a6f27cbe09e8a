"""Muon (Jordan et al. 2024) on stacks of all matrices of one shape.

PyTorch's own optimizer handles one matrix after another, with 21 small operations each, and the GPU
waits for Python. The blocks of an encoder have only four shapes, so here the same iteration runs
four times, on stacks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

_SMALLEST_NORM = 1e-7


class StackedMuon(torch.optim.Muon):
    """`torch.optim.Muon` with ``adjust_lr_fn="match_rms_adamw"``, faster; state and settings alike.

    The update equals PyTorch's up to the rounding of bfloat16 products.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Move every matrix that has a gradient; ``closure`` must be None."""
        assert closure is None
        for group in self.param_groups:
            assert group["adjust_lr_fn"] == "match_rms_adamw"
            shapes: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    shapes[parameter.shape].append(parameter)
            for matrices in shapes.values():
                self._move(matrices, group)

    def _move(self, matrices: Sequence[Tensor], group: dict[str, Any]) -> None:
        gradients = [matrix.grad for matrix in matrices if matrix.grad is not None]
        momenta = [self._momentum(matrix) for matrix in matrices]
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        ahead = torch._foreach_lerp(gradients, momenta, group["momentum"])
        steepest = torch.stack(list(ahead if group["nesterov"] else momenta))  # (M, A, B)
        updates = orthogonalized(steepest, group["ns_coefficients"], group["ns_steps"])
        rows, columns = matrices[0].shape
        rate = group["lr"] * 0.2 * max(rows, columns) ** 0.5
        torch._foreach_mul_(list(matrices), 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(list(matrices), list(updates.to(matrices[0].dtype)), alpha=-rate)

    def _momentum(self, matrix: Tensor) -> Tensor:
        state = self.state[matrix]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(matrix)
        momentum: Tensor = state["momentum_buffer"]
        return momentum


def orthogonalized(
    matrices: Tensor, coefficients: tuple[float, float, float], iterations: int
) -> Tensor:
    """Push the singular values of each matrix towards 1 (Newton-Schulz, quintic).

    Args:
        matrices: A stack, (M, A, B).
        coefficients: Coefficients of the odd polynomial ``a s + b s^3 + c s^5``.
        iterations: Number of applications.

    Returns:
        bfloat16 (M, A, B).
    """
    a, b, c = coefficients
    tall = matrices.shape[1] > matrices.shape[2]
    x = (matrices.mT if tall else matrices).bfloat16()
    norms = torch.linalg.matrix_norm(x, keepdim=True)
    x = x / norms.clamp(min=_SMALLEST_NORM)
    for _ in range(iterations):
        gram = x @ x.mT  # (M, A, A)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
