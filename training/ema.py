"""A running mean of the weights, which generalises better than the last step's weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """Exponential moving average of the parameters that train."""

    def __init__(self, named: Iterable[tuple[str, nn.Parameter]], decay: float) -> None:
        """Start from the present weights; ``decay`` 0 follows them exactly."""
        self._decay = decay
        self._parameters = dict(named)
        self._mean = {name: p.detach().clone() for name, p in self._parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the mean towards the weights; early steps forget faster."""
        decay = min(self._decay, (1 + step) / (10 + step))
        for name, parameter in self._parameters.items():
            self._mean[name].lerp_(parameter.detach(), 1 - decay)

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
        """Return the mean, by parameter name."""
        return dict(self._mean)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over a mean of the same parameters."""
        for name in self._mean:
            self._mean[name].copy_(state[name])

    @torch.no_grad()
    def _copy(self, values: dict[str, Tensor]) -> None:
        for name, parameter in self._parameters.items():
            parameter.copy_(values[name])
