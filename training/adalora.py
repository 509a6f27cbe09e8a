"""AdaLoRA: adapters in the form of a singular value decomposition on the q, k and v slices.

``W + (alpha / target_rank) * P diag(lambda) Q`` for each slice of each attention block, and one
budget of triplets for the whole model that moves rank to where it matters. Zhang et al.,
"Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning", ICLR 2023.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.config import AdaLoraConfig, ConfigError

SLICES = ("q", "k", "v")
_PARTS = ("P", "singular", "Q")


class AdaLoraQkv(nn.Module):
    """A fused ``qkv`` layer with an adapter of its own on each of its three slices."""

    mask: Tensor

    def __init__(self, layer: nn.Linear, config: AdaLoraConfig) -> None:
        """Wrap a layer (3 * D, D_in); its own weight is frozen.

        P and Q start orthogonal and lambda at 0, so the wrapped layer computes what the layer
        did and the orthogonality penalty starts at 0.
        """
        super().__init__()
        outputs, inputs = layer.weight.shape[0] // 3, layer.weight.shape[1]
        rank = config.initial_rank
        self.base = layer
        self.base.requires_grad_(False)
        self.scaling = config.alpha / config.target_rank
        self.P = nn.Parameter(torch.stack([_orthogonal(outputs, rank) for _ in SLICES]))
        self.singular = nn.Parameter(torch.zeros(3, rank))  # lambda
        self.Q = nn.Parameter(torch.stack([_orthogonal(inputs, rank).T for _ in SLICES]))
        self.register_buffer("mask", torch.ones(3, rank))
        self.frozen_mask = False

    def adapter(self) -> Tensor:
        """Return the scaled product of the kept triplets, (3 * D, D_in).

        While the budget still moves, a cut triplet gives nothing but its lambda goes on learning
        (straight through the mask), so it can come back when it starts to matter.
        """
        singular = self.singular * self.mask
        if not self.frozen_mask:
            singular = singular.detach() + self.singular - self.singular.detach()
        product = (self.P * singular[:, None, :]) @ self.Q  # (3, D, D_in)
        return product.flatten(0, 1) * self.scaling

    def folded_weight(self) -> Tensor:
        """Return the one weight that this layer multiplies by, (3 * D, D_in)."""
        return self.base.weight + self.adapter()

    @property
    def folded_bias(self) -> Tensor | None:
        """Bias of the layer, (3 * D,)."""
        return self.base.bias

    def forward(self, values: Tensor) -> Tensor:
        """Map (..., D_in) to (..., 3 * D)."""
        return functional.linear(values, self.folded_weight(), self.base.bias)

    def penalty(self) -> Tensor:
        """Squared Frobenius distance of P'P and QQ' from the identity (equation 4)."""
        identity = torch.eye(self.P.shape[2], device=self.P.device)
        left = self.P.transpose(1, 2) @ self.P - identity
        right = self.Q @ self.Q.transpose(1, 2) - identity
        return left.square().sum() + right.square().sum()


def _orthogonal(rows: int, columns: int) -> Tensor:
    if columns > rows:
        raise ConfigError(f"adalora.initial_rank {columns} exceeds the layer's width {rows}")
    matrix: Tensor = nn.init.orthogonal_(torch.empty(rows, columns))
    return matrix


class RankAllocator:
    """Decides, over the whole model, which triplets the present budget keeps."""

    def __init__(
        self, layers: Mapping[str, AdaLoraQkv], config: AdaLoraConfig, total_steps: int
    ) -> None:
        """Plan the budget of a run.

        Raises:
            ConfigError: The schedule leaves no step between warm-up and the final phase.
        """
        if config.warmup_steps + config.final_steps >= total_steps:
            raise ConfigError(
                f"adalora: warmup_steps {config.warmup_steps} + final_steps {config.final_steps} "
                f"= {config.warmup_steps + config.final_steps} leave none of the {total_steps} "
                "steps in which the budget could fall"
            )
        self._layers = dict(layers)
        self._config = config
        self._total_steps = total_steps
        self._state = {
            f"{name}.{part}.{kind}": torch.zeros_like(getattr(layer, part).detach())
            for name, layer in self._layers.items()
            for part in _PARTS
            for kind in ("sensitivity", "uncertainty")
        }

    @property
    def initial_budget(self) -> int:
        """Triplets of the whole model at the start."""
        return len(self._layers) * len(SLICES) * self._config.initial_rank

    @property
    def target_budget(self) -> int:
        """Triplets of the whole model at the end."""
        return len(self._layers) * len(SLICES) * self._config.target_rank

    def budget(self, step: int) -> int:
        """Triplets that step ``step`` (from 0) may use: the cubic fall of equation 12."""
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
        """Tell whether triplets are chosen after step ``step`` (from 0)."""
        since_warmup = step - self._config.warmup_steps
        at_interval = since_warmup >= 0 and since_warmup % self._config.interval_steps == 0
        return at_interval or step == self._total_steps - self._config.final_steps

    def observe_gradients(self) -> None:
        """Update smoothed sensitivity and uncertainty from the present gradients (eq. 8-10)."""
        beta1, beta2 = self._config.sensitivity_decay, self._config.uncertainty_decay
        for name, layer in self._layers.items():
            for part in _PARTS:
                parameter = getattr(layer, part)
                if parameter.grad is None:
                    continue
                now = (parameter.detach() * parameter.grad).abs()
                smooth = self._state[f"{name}.{part}.sensitivity"]
                uncertain = self._state[f"{name}.{part}.uncertainty"]
                smooth.mul_(beta1).add_(now, alpha=1 - beta1)
                uncertain.mul_(beta2).add_((now - smooth).abs(), alpha=1 - beta2)

    def importance(self, name: str) -> Tensor:
        """Return the importance of each triplet of a layer (equation 7), (3, R)."""
        scores = {
            part: self._state[f"{name}.{part}.sensitivity"]
            * self._state[f"{name}.{part}.uncertainty"]
            for part in _PARTS
        }
        return scores["singular"] + scores["P"].mean(dim=1) + scores["Q"].mean(dim=2)

    def allocate(self, step: int) -> int:
        """Keep the most important triplets that the budget of ``step`` allows.

        Returns:
            The number of triplets kept; always the budget, ties broken by order.
        """
        budget = self.budget(step)
        final = step >= self._total_steps - self._config.final_steps
        if not final or not all(layer.frozen_mask for layer in self._layers.values()):
            names = list(self._layers)
            scores = torch.cat([self.importance(name).flatten() for name in names])
            keep = torch.zeros_like(scores)
            keep[torch.argsort(scores, descending=True, stable=True)[:budget]] = 1.0
            for name, part in zip(names, keep.chunk(len(names)), strict=True):
                self._layers[name].mask.copy_(part.view_as(self._layers[name].mask))
        if final:
            for layer in self._layers.values():
                layer.frozen_mask = True
        return int(sum(layer.mask.sum() for layer in self._layers.values()))

    def ranks(self) -> dict[str, dict[str, int]]:
        """Return the triplets kept of each slice of each layer."""
        return {
            name: {part: int(n) for part, n in zip(SLICES, layer.mask.sum(dim=1), strict=True)}
            for name, layer in self._layers.items()
        }

    def to(self, device: torch.device) -> None:
        """Move the smoothed statistics to where the gradients will be."""
        self._state = {name: tensor.to(device) for name, tensor in self._state.items()}

    def state_dict(self) -> dict[str, Tensor]:
        """Return the smoothed statistics, for a checkpoint."""
        return dict(self._state)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over smoothed statistics."""
        for name, tensor in self._state.items():
            tensor.copy_(state[name])
