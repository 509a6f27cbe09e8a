"""LoRA: adapters with the same fixed rank in every slice, for comparison with AdaLoRA.

``W + (alpha / rank) * B A`` where B starts at 0. Hu et al., "LoRA: Low-Rank Adaptation of Large
Language Models", ICLR 2022.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from training.adapters.adapted_linear import AdaptedLinear
from training.adapters.config import LoraConfig
from training.errors import ConfigError


class LoraLinear(AdaptedLinear):
    """A linear layer with a product of two factors added to each adapted slice."""

    def __init__(
        self,
        layer: nn.Linear,
        config: LoraConfig,
        all_slices: Sequence[str] = ("q", "k", "v"),
    ) -> None:
        """Wrap a layer (O, D_in); B starts at 0, so the output does not change.

        Raises:
            ConfigError: The rank exceeds a side of the layer's slices.
        """
        super().__init__(layer, all_slices, config.targets)
        limit = min(self._height, layer.in_features)
        if config.rank > limit:
            raise ConfigError(f"lora.rank {config.rank} exceeds the layer's width {limit}")
        count = len(self.slices)
        self.scaling = config.alpha / config.rank
        self.A = nn.Parameter(torch.empty(count, config.rank, layer.in_features))
        self.B = nn.Parameter(torch.zeros(count, self._height, config.rank))
        for matrix in self.A.data:
            nn.init.kaiming_uniform_(matrix, a=math.sqrt(5))

    def factors(self) -> list[nn.Parameter]:
        """Return A and B."""
        return [self.A, self.B]

    def products(self) -> Tensor:
        """Return the scaled ``B A`` of each adapted slice, (S, O / slices, D_in)."""
        return (self.B @ self.A) * self.scaling
