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
        """Start from the current weights; with ``decay`` 0 there is no mean."""
        self._decay = decay
        self._parameters = dict(named) if decay > 0 else {}
        self._mean = {name: p.detach().clone() for name, p in self._parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the mean towards the weights, faster in early steps."""
        if not self._parameters:
            return
        decay = min(self._decay, (1 + step) / (10 + step))
        # One call for all tensors.
        move = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        move(list(self._mean.values()), [p.detach() for p in self._parameters.values()], step)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Use the mean as the model's weights within a ``with`` block."""
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
        """Load a mean of the same parameters."""
        for name in self._mean:
            self._mean[name].copy_(state[name])

    @torch.no_grad()
    def _copy(self, values: dict[str, Tensor]) -> None:
        for name, parameter in self._parameters.items():
            parameter.copy_(values[name])
