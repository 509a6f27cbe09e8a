"""A layer of few weight levels, whose integers are trained through separate parameters.

With few levels, training the float weight at a suitable rate never reaches the next integer. So the
parameter of each weight is its *unit*, the float divided by the scale, and the scale of each
channel is trained in the logarithm. The forward pass rounds the unit to its level; the gradient
passes unchanged.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model_store.weight_levels import WeightLevels
from training.quantization.fake_quantization import EXECUTED_BITS, FakeQuantized
from training.quantization.scale_fitting import largest_scale

FARTHEST_START = 0.45
"""Largest initial distance of a unit from its integer, in distances between levels, so that it
rounds to this integer."""


class FewLevelQuantized(FakeQuantized):
    """A linear or convolution layer on weights of few levels, with a rounded input.

    Attributes:
        levels: The integers that a weight can have.
        unit: Each weight divided by its scale, (N, K).
        log_weight_scale: Logarithm of each channel's scale, (N,).
    """

    source: nn.Linear | nn.Conv2d

    def __init__(
        self,
        source: nn.Linear | nn.Conv2d,
        levels: WeightLevels,
        activation_bits: int = EXECUTED_BITS,
    ) -> None:
        """Wrap ``source``, with weights at the nearest level of the scale of the largest weight."""
        super().__init__(source, activation_bits)
        self.levels = levels
        weight = source.weight.detach().flatten(1)
        scale = largest_scale(weight, levels)
        self.unit = nn.Parameter(torch.empty_like(weight))
        self.log_weight_scale = nn.Parameter(torch.empty_like(scale))
        self.start_at(levels.nearest(weight / scale[:, None]), scale)
        source.weight.requires_grad_(False)  # from here on the units are trained

    @torch.no_grad()
    def start_at(self, integers: Tensor, scale: Tensor) -> None:
        """Start from these integers and scales, with each unit as near its float as possible.

        Args:
            integers: Whole numbers among the levels, (N, K).
            scale: Scale of each channel, positive, (N,).
        """
        weight = self.source.weight.flatten(1)
        farthest = FARTHEST_START * self.levels.spacing
        off = weight / scale[:, None] - integers
        self.unit.copy_(integers + off.clamp(-farthest, farthest))
        self.log_weight_scale.copy_(scale.log())

    @torch.no_grad()
    def shift_bias(self, change: Tensor) -> None:
        """Add to the layer's bias, (N,)."""
        assert self.source.bias is not None
        self.source.bias.add_(change)

    def integer_weight(self) -> tuple[Tensor, Tensor]:
        """Return the levels as floats, with the units' gradient, and the scales (N,)."""
        nearest = self.unit + (self.levels.nearest(self.unit) - self.unit).detach()
        shape = self.source.weight.shape
        return nearest.view(shape), self.log_weight_scale.exp()

    def stored_weight(self) -> tuple[Tensor, Tensor]:
        """Return the stored form of the weight: int8 (N, K) and scales (N,)."""
        integers = self.levels.nearest(self.unit.detach()).to(torch.int8)
        return integers, self.log_weight_scale.detach().exp()
