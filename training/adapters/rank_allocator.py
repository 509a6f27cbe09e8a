"""The budget of AdaLoRA: which triplets of the whole model are kept, and when others are cut.

Zhang et al., "Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning", ICLR 2023; equation
numbers are the paper's.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from training.adapters.adalora import AdaLoraLinear
from training.adapters.config import AdaLoraConfig

_PARTS = ("P", "singular", "Q")


class RankAllocator:
    """Chooses the triplets of the whole model that the current budget keeps."""

    def __init__(
        self, layers: Mapping[str, AdaLoraLinear], config: AdaLoraConfig, total_steps: int
    ) -> None:
        """Plan the budget of a run.

        Raises:
            ConfigError: The schedule leaves no step between warm-up and the final phase.
        """
        config.check_schedule(total_steps)
        self._layers = dict(layers)
        self._config = config
        self._total_steps = total_steps
        self._slices = sum(len(layer.slices) for layer in layers.values())
        self._state = {
            f"{name}.{part}.{kind}": torch.zeros_like(getattr(layer, part).detach())
            for name, layer in self._layers.items()
            for part in _PARTS
            for kind in ("sensitivity", "uncertainty")
        }
        if config.allocation == "random":  # drawn once, so that cut triplets stay cut
            self._state |= {
                f"{name}.drawn": torch.rand(layer.mask.shape) for name, layer in layers.items()
            }

    @property
    def initial_budget(self) -> int:
        """Triplets of the whole model at the start."""
        return self._slices * self._config.initial_rank

    @property
    def target_budget(self) -> int:
        """Triplets of the whole model at the end."""
        return self._slices * self._config.target_rank

    def budget(self, step: int) -> int:
        """Return the budget of step ``step`` (from 0): the cubic schedule, equation 12."""
        c = self._config
        if step < c.warmup_steps:
            return self.initial_budget
        falling = self._total_steps - c.final_steps - c.warmup_steps
        progress = (step - c.warmup_steps) / falling
        if progress >= 1:
            return self.target_budget
        span = self.initial_budget - self.target_budget
        return self.target_budget + round(span * (1 - progress) ** 3)

    def is_due(self, step: int) -> bool:
        """Return whether triplets are chosen after step ``step`` (from 0)."""
        since_warmup = step - self._config.warmup_steps
        at_interval = since_warmup >= 0 and since_warmup % self._config.interval_steps == 0
        return at_interval or step == self._total_steps - self._config.final_steps

    def observe_gradients(self) -> None:
        """Update smoothed sensitivity and uncertainty from the current gradients (eq. 8-10)."""
        beta1, beta2 = self._config.sensitivity_decay, self._config.uncertainty_decay
        seen = {
            f"{name}.{part}": parameter
            for name, layer in self._layers.items()
            for part in _PARTS
            if (parameter := getattr(layer, part)).grad is not None
        }
        if not seen:
            return
        smooth = [self._state[f"{key}.sensitivity"] for key in seen]
        uncertain = [self._state[f"{key}.uncertainty"] for key in seen]
        # One call for all tensors, because a GPU waits for each call.
        values = [parameter.detach() for parameter in seen.values()]
        now = torch._foreach_mul(values, [p.grad for p in seen.values()])
        torch._foreach_abs_(now)
        torch._foreach_mul_(smooth, beta1)
        torch._foreach_add_(smooth, now, alpha=1 - beta1)
        change = torch._foreach_sub(now, smooth)
        torch._foreach_abs_(change)
        torch._foreach_mul_(uncertain, beta2)
        torch._foreach_add_(uncertain, change, alpha=1 - beta2)

    def importance(self, name: str) -> Tensor:
        """Return the importance of each triplet of a layer (equation 7), (S, R)."""
        scores = {
            part: self._state[f"{name}.{part}.sensitivity"]
            * self._state[f"{name}.{part}.uncertainty"]
            for part in _PARTS
        }
        return scores["singular"] + scores["P"].mean(dim=1) + scores["Q"].mean(dim=2)

    def _preference(self, name: str) -> Tensor:
        """Return the preference of each triplet of a layer, largest first, (S, R)."""
        if self._config.allocation == "random":
            return self._state[f"{name}.drawn"]
        importance = self.importance(name)
        if self._config.allocation == "importance":
            return importance
        # The best of each slice, then the second best of each slice, and so on.
        order = torch.argsort(importance, dim=1, descending=True, stable=True)
        return -torch.argsort(order, dim=1).to(importance.dtype)

    def allocate(self, step: int) -> int:
        """Keep the triplets that ``allocation`` prefers, within the budget of ``step``.

        Returns:
            The number of kept triplets, which always equals the budget; order breaks ties.
        """
        budget = self.budget(step)
        final = step >= self._total_steps - self._config.final_steps
        if not final or not all(layer.frozen_mask for layer in self._layers.values()):
            names = list(self._layers)
            scores = torch.cat([self._preference(name).flatten() for name in names])
            keep = torch.zeros_like(scores)
            keep[torch.argsort(scores, descending=True, stable=True)[:budget]] = 1.0
            sizes = [self._layers[name].mask.numel() for name in names]
            for name, part in zip(names, torch.split(keep, sizes), strict=True):
                self._layers[name].mask.copy_(part.view_as(self._layers[name].mask))
        if final:
            for layer in self._layers.values():
                layer.frozen_mask = True
        return int(sum(layer.mask.sum() for layer in self._layers.values()))

    def ranks(self) -> dict[str, dict[str, int]]:
        """Return the number of kept triplets of each slice of each layer."""
        return {
            name: {
                part: int(n) for part, n in zip(layer.slices, layer.mask.sum(dim=1), strict=True)
            }
            for name, layer in self._layers.items()
        }

    def to(self, device: torch.device) -> None:
        """Move the smoothed statistics to the gradients' device."""
        self._state = {name: tensor.to(device) for name, tensor in self._state.items()}

    def state_dict(self) -> dict[str, Tensor]:
        """Return the smoothed statistics, for a checkpoint."""
        return dict(self._state)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load smoothed statistics."""
        for name, tensor in self._state.items():
            tensor.copy_(state[name])
