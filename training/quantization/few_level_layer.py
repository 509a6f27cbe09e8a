"""A layer whose weights learn to be one of a few integers, by numbers of their own.

With few levels a weight cannot follow the float that it came from: moving the float by a rate that
suits it never reaches the next integer. So each weight learns as its *unit*, the float divided by
the scale, and the scale of each channel learns in the logarithm beside it. Forward the unit is
rounded to its level; backward the gradient passes as if nothing had been rounded.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model_store.weight_levels import WeightLevels
from training.quantization.fake_quantization import FakeQuantized
from training.quantization.scale_fitting import largest_scale

FARTHEST_START = 0.45
"""A unit starts at most so far from its integer, in distances between levels: on its side of the
border where it would be rounded to the next."""


class FewLevelQuantized(FakeQuantized):
    """A linear or convolution layer on weights of few levels and an 8-bit input.

    Attributes:
        levels: The integers that a weight may be.
        unit: Each weight divided by its scale, (N, K).
        log_weight_scale: Logarithm of each channel's scale, (N,).
    """

    source: nn.Linear | nn.Conv2d

    def __init__(self, source: nn.Linear | nn.Conv2d, levels: WeightLevels) -> None:
        """Wrap ``source``, its weights at the nearest level of the scale that fits the largest."""
        super().__init__(source)
        self.levels = levels
        weight = source.weight.detach().flatten(1)
        scale = largest_scale(weight, levels)
        self.unit = nn.Parameter(torch.empty_like(weight))
        self.log_weight_scale = nn.Parameter(torch.empty_like(scale))
        self.start_at(levels.nearest(weight / scale[:, None]), scale)
        source.weight.requires_grad_(False)  # from here on the units learn

    @torch.no_grad()
    def start_at(self, integers: Tensor, scale: Tensor) -> None:
        """Let the weights be these integers and scales, each unit as near its float as it may be.

        Args:
            integers: Whole numbers among the levels, (N, K).
            scale: Of each channel, positive, (N,).
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
        """Return what is stored of the weight: int8 (N, K) and scales (N,)."""
        integers = self.levels.nearest(self.unit.detach()).to(torch.int8)
        return integers, self.log_weight_scale.detach().exp()
