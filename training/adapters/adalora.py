"""AdaLoRA's adapters, in the form of a singular value decomposition.

``W + (alpha / target_rank) * P diag(lambda) Q`` for each adapted slice of each layer. Which of
the triplets are kept is decided in `training.adapters.rank_allocator`. Zhang et al., "Adaptive
Budget Allocation for Parameter-Efficient Fine-Tuning", ICLR 2023.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from training.adapters.adapted_linear import AdaptedLinear
from training.adapters.config import AdaLoraConfig, Initialization, PenaltyKind
from training.errors import ConfigError

NORMAL_SD = 0.02
"""Standard deviation of P and Q that start small, that of peft."""


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

        Lambda starts at 0, so the wrapped layer computes what the layer did. Orthogonal P and Q
        start without any penalty.

        Raises:
            ConfigError: The initial rank exceeds a side of the layer's slices.
        """
        super().__init__(layer, all_slices, config.targets)
        outputs, inputs, rank = self._height, layer.in_features, config.initial_rank
        self.scaling = config.alpha / config.target_rank
        first = _FIRST_VALUES[config.initialization]
        self.P = nn.Parameter(torch.stack([first(outputs, rank) for _ in self.slices]))
        self.singular = nn.Parameter(torch.zeros(len(self.slices), rank))  # lambda
        self.Q = nn.Parameter(torch.stack([first(inputs, rank).T for _ in self.slices]))
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


def mean_penalty(layers: Iterable[AdaLoraLinear], kind: PenaltyKind = "squared") -> Tensor:
    """Return the Frobenius distance of P'P and QQ' from the identity.

    ``squared`` (equation 4): its square, summed over a layer's slices, averaged over the layers.
    ``norm``: itself, averaged over all factors. Computed for all factors of one shape at once:
    layer by layer it takes hundreds of tiny operations, which a GPU waits for.
    """
    by_shape: dict[torch.Size, list[Tensor]] = {}
    layer_count = factor_count = 0
    for layer in layers:
        layer_count += 1
        factor_count += 2 * len(layer.slices)
        for factor in (layer.P, layer.Q.transpose(1, 2)):  # (S, L, R)
            by_shape.setdefault(factor.shape[1:], []).append(factor)
    terms = []
    for factors in by_shape.values():
        together = torch.cat(factors)
        identity = torch.eye(together.shape[2], device=together.device)
        off = together.transpose(1, 2) @ together - identity  # (factors, R, R)
        if kind == "squared":
            terms.append(off.square().sum())
        else:  # whose gradient at 0 is 0, not a division by it
            terms.append(torch.linalg.vector_norm(off, dim=(1, 2)).sum())
    return torch.stack(terms).sum() / (layer_count if kind == "squared" else factor_count)


def _orthogonal(rows: int, columns: int) -> Tensor:
    if columns > rows:
        raise ConfigError(f"adalora.initial_rank {columns} exceeds the layer's width {rows}")
    matrix: Tensor = nn.init.orthogonal_(torch.empty(rows, columns))
    return matrix


def _normal(rows: int, columns: int) -> Tensor:
    if columns > rows:
        raise ConfigError(f"adalora.initial_rank {columns} exceeds the layer's width {rows}")
    return torch.randn(rows, columns) * NORMAL_SD


_FIRST_VALUES: Mapping[Initialization, Callable[[int, int], Tensor]] = {
    "orthogonal": _orthogonal,
    "normal": _normal,
}
