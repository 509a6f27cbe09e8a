"""Numbers of each step, averaged on the device and read only when they are logged.

Reading a number from a GPU waits for all queued work. At every step that would leave the GPU idle
between steps.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import torch
from torch import Tensor


class StepMetrics:
    """Sums of the steps since the last reading."""

    def __init__(self) -> None:
        """Start empty."""
        self._sums: dict[str, Tensor] = {}
        self._steps = 0
        self._started = time.perf_counter()

    def add(self, terms: Mapping[str, Tensor | float]) -> None:
        """Add the numbers of one step; every step has the same names."""
        for name, value in terms.items():
            now = value.detach() if isinstance(value, Tensor) else torch.tensor(value)
            self._sums[name] = self._sums[name] + now if name in self._sums else now
        self._steps += 1

    def check_finite(self, name: str, step: int) -> None:
        """Stop if a number of any step since the last reading was not finite.

        Raises:
            FloatingPointError: It was infinite or not a number.
        """
        if name in self._sums and not torch.isfinite(self._sums[name]):
            first = step - self._steps + 1
            raise FloatingPointError(f"{name} is not finite within steps {first} to {step}")

    def read(self) -> dict[str, float]:
        """Return the means and the seconds per step, and reset."""
        means = {name: total.item() / self._steps for name, total in self._sums.items()}
        now = time.perf_counter()
        means["step_s"] = (now - self._started) / max(self._steps, 1)
        self._sums, self._steps, self._started = {}, 0, now
        return means
