"""A frozen linear layer with a low-rank adapter, and the layers of a SAM that can have one.

AdaLoRA and LoRA share this: the choice of slices and layers, and the folding of the adapter into
one weight, which fake quantization and export need.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

LAYER_SLICES: Mapping[str, tuple[str, ...]] = {
    "attn.qkv": ("q", "k", "v"),
    "attn.proj": ("proj",),
    "mlp.lin1": ("lin1",),
    "mlp.lin2": ("lin2",),
}
"""The linear layers of an encoder block, and the slices of their outputs from top to bottom."""

TARGETS = tuple(name for slices in LAYER_SLICES.values() for name in slices)
"""Every slice that can be adapted."""


class AdaptedLinear(nn.Module):
    """A linear layer plus a low-rank matrix on some slices of its output.

    Attributes:
        base: The layer itself; its weight and bias are frozen.
        slices: Names of the adapted slices, in the order of the factors' first axis.
    """

    def __init__(self, layer: nn.Linear, all_slices: Sequence[str], slices: Sequence[str]) -> None:
        """Wrap a layer (O, D_in) whose O outputs consist of ``all_slices`` of equal height.

        Args:
            layer: The layer; frozen from now on.
            all_slices: Names of the slices of its output.
            slices: Names of the adapted slices.
        """
        super().__init__()
        self.base = layer
        self.base.requires_grad_(False)
        self.slices = tuple(name for name in all_slices if name in slices)
        self._adapted = tuple(name in slices for name in all_slices)
        self._height = layer.out_features // len(all_slices)

    def first_rows(self) -> list[int]:
        """Return the row of the weight at which each adapted slice begins."""
        return [place * self._height for place, one in enumerate(self._adapted) if one]

    def factors(self) -> list[nn.Parameter]:
        """Return the parameters of the adapter."""
        raise NotImplementedError

    def products(self) -> Tensor:
        """Return the product added to each adapted slice, (S, O / slices, D_in)."""
        raise NotImplementedError

    def adapter(self) -> Tensor:
        """Return the matrix added to the weight, (O, D_in); 0 in slices without an adapter."""
        products = self.products()
        if all(self._adapted):
            return products.flatten(0, 1)
        zeros = products.new_zeros(self._height, self.base.in_features)
        remaining = iter(products)
        return torch.cat([next(remaining) if adapted else zeros for adapted in self._adapted])

    def folded_weight(self) -> Tensor:
        """Return the weight with the adapter folded in, (O, D_in)."""
        return self.base.weight + self.adapter()

    @property
    def folded_bias(self) -> Tensor | None:
        """Bias of the layer, (O,)."""
        return self.base.bias

    def forward(self, values: Tensor) -> Tensor:
        """Map (..., D_in) to (..., O)."""
        return functional.linear(values, self.folded_weight(), self.base.bias)
