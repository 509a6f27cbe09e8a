"""A running mean of the weights, which generalises better than the last step's weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightAverage:
    """Exponential moving average of the parameters that train."""

    def __init__(self, named: Iterable[tuple[str, nn.Parameter]], decay: float) -> None:
        """Start from the present weights; ``decay`` 0 keeps no mean, the weights stand for it."""
        self._decay = decay
        self._parameters = dict(named) if decay > 0 else {}
        self._mean = {name: p.detach().clone() for name, p in self._parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the mean towards the weights; early steps forget faster."""
        if not self._parameters:
            return
        decay = min(self._decay, (1 + step) / (10 + step))
        # One call for all tensors, not one per tensor.
        move = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        move(list(self._mean.values()), [p.detach() for p in self._parameters.values()], step)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the mean into the model for the time of a ``with`` block."""
        kept = {name: p.detach().clone() for name, p in self._parameters.items()}
        self._copy(self._mean)
        try:
            yield
        finally:
            self._copy(kept)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the mean, by parameter name; empty without one."""
        return dict(self._mean)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over a mean of the same parameters."""
        for name in self._mean:
            self._mean[name].copy_(state[name])

    @torch.no_grad()
    def _copy(self, values: dict[str, Tensor]) -> None:
        for name, parameter in self._parameters.items():
            parameter.copy_(values[name])
