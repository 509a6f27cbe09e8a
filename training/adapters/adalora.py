"""AdaLoRA's adapters, in the form of a singular value decomposition.

``W + (alpha / target_rank) * P diag(lambda) Q`` for each adapted slice of each layer. Which of
the triplets are kept is decided in `training.adapters.rank_allocator`. Zhang et al., "Adaptive
Budget Allocation for Parameter-Efficient Fine-Tuning", ICLR 2023.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from training.adapters.adapted_linear import AdaptedLinear
from training.adapters.config import AdaLoraConfig
from training.errors import ConfigError


class AdaLoraLinear(AdaptedLinear):
    """A linear layer with triplets of its own on each adapted slice.

    Attributes:
        mask: 1 for every triplet that is kept and 0 for every one that is cut, (S, R).
        frozen_mask: Whether the budget has settled; then a cut lambda stops learning.
    """

    mask: Tensor

    def __init__(
        self,
        layer: nn.Linear,
        config: AdaLoraConfig,
        all_slices: Sequence[str] = ("q", "k", "v"),
    ) -> None:
        """Wrap a layer (O, D_in); its own weight is frozen.

        P and Q start orthogonal and lambda at 0, so the wrapped layer computes what the layer
        did and the orthogonality penalty starts at 0.

        Raises:
            ConfigError: The initial rank exceeds a side of the layer's slices.
        """
        super().__init__(layer, all_slices, config.targets)
        outputs, inputs, rank = self._height, layer.in_features, config.initial_rank
        self.scaling = config.alpha / config.target_rank
        self.P = nn.Parameter(torch.stack([_orthogonal(outputs, rank) for _ in self.slices]))
        self.singular = nn.Parameter(torch.zeros(len(self.slices), rank))  # lambda
        self.Q = nn.Parameter(torch.stack([_orthogonal(inputs, rank).T for _ in self.slices]))
        self.register_buffer("mask", torch.ones(len(self.slices), rank))
        self.frozen_mask = False

    def factors(self) -> list[nn.Parameter]:
        """Return P, lambda and Q."""
        return [self.P, self.singular, self.Q]

    def products(self) -> Tensor:
        """Return the scaled product of the kept triplets, (S, O / slices, D_in).

        While the budget still moves, a cut triplet gives nothing but its lambda goes on learning
        (straight through the mask), so it can come back when it starts to matter.
        """
        singular = self.singular * self.mask
        if not self.frozen_mask:
            singular = singular.detach() + self.singular - self.singular.detach()
        return (self.P * singular[:, None, :]) @ self.Q * self.scaling


def mean_penalty(layers: Iterable[AdaLoraLinear]) -> Tensor:
    """Return the squared Frobenius distance of P'P and QQ' from the identity (equation 4).

    Summed over a layer's slices, averaged over the layers. Computed for all factors of one shape at
    once: layer by layer it takes hundreds of tiny operations, which a GPU waits for.
    """
    by_shape: dict[torch.Size, list[Tensor]] = {}
    count = 0
    for layer in layers:
        count += 1
        for factor in (layer.P, layer.Q.transpose(1, 2)):  # (S, L, R)
            by_shape.setdefault(factor.shape[1:], []).append(factor)
    terms = []
    for factors in by_shape.values():
        together = torch.cat(factors)
        identity = torch.eye(together.shape[2], device=together.device)
        terms.append((together.transpose(1, 2) @ together - identity).square().sum())
    return torch.stack(terms).sum() / count


def _orthogonal(rows: int, columns: int) -> Tensor:
    if columns > rows:
        raise ConfigError(f"adalora.initial_rank {columns} exceeds the layer's width {rows}")
    matrix: Tensor = nn.init.orthogonal_(torch.empty(rows, columns))
    return matrix
