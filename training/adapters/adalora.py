"""AdaLoRA's adapters, in the form of a singular value decomposition.

``W + (alpha / target_rank) * P diag(lambda) Q`` for each adapted slice of each layer.
`training.adapters.rank_allocator` decides which triplets are kept. Zhang et al., "Adaptive Budget
Allocation for Parameter-Efficient Fine-Tuning", ICLR 2023.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from training.adapters.adapted_linear import AdaptedLinear
from training.adapters.config import AdaLoraConfig, Initialization, PenaltyKind
from training.errors import ConfigError

NORMAL_SD = 0.02
"""Standard deviation of small random P and Q at the start, as in peft."""


class AdaLoraLinear(AdaptedLinear):
    """A linear layer with separate triplets on each adapted slice.

    Attributes:
        mask: 1 for every kept triplet and 0 for every cut one, (S, R).
        frozen_mask: Whether the ranks are final; then cut lambdas are no longer trained.
    """

    mask: Tensor

    def __init__(
        self,
        layer: nn.Linear,
        config: AdaLoraConfig,
        all_slices: Sequence[str] = ("q", "k", "v"),
    ) -> None:
        """Wrap a layer (O, D_in); its own weight is frozen.

        Lambda starts at 0, so the output does not change. Orthogonal P and Q start without any
        penalty.

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

        While the budget still changes, a cut triplet contributes nothing, but its lambda is still
        trained (straight through the mask). So it can return when it becomes important.
        """
        singular = self.singular * self.mask
        if not self.frozen_mask:
            singular = singular.detach() + self.singular - self.singular.detach()
        return (self.P * singular[:, None, :]) @ self.Q * self.scaling


def mean_penalty(layers: Iterable[AdaLoraLinear], kind: PenaltyKind = "squared") -> Tensor:
    """Return the Frobenius distance of P'P and QQ' from the identity.

    ``squared`` (equation 4) is its square, summed over a layer's slices and averaged over the
    layers. ``norm`` is the distance itself, averaged over all factors. All factors of one shape are
    computed at once; layer by layer it would take hundreds of tiny operations on a GPU.
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
        else:  # its gradient at 0 is 0, without a division by 0
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
