"""Second moments of every quantizable layer's inputs, gathered while a float model runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

MOST_ROWS = 4096
"""Most rows of one call that are used, evenly spread, because an X-ray's thousands of tokens are
similar."""


@dataclass
class InputMoments:
    """Sums over the inputs of a layer, each a row of K numbers (a patch, of a convolution).

    Attributes:
        count: Rows so far.
        total: Sum of the rows, float64 (K,).
        products: Sum of the rows' outer products, float64 (K, K).
    """

    count: int
    total: Tensor
    products: Tensor

    @classmethod
    def of(cls, layer: nn.Linear | nn.Conv2d) -> InputMoments:
        """Return empty sums for a layer."""
        terms = layer.weight[0].numel()
        zeros = torch.zeros(terms, terms, dtype=torch.float64, device=layer.weight.device)
        return cls(0, zeros[0].clone(), zeros)

    def add(self, rows: Tensor) -> None:
        """Add inputs, float (M, K), at most `MOST_ROWS` of them, evenly spread."""
        chosen = rows[:: max(1, len(rows) // MOST_ROWS)].detach().float()
        self.count += len(chosen)
        self.total += chosen.sum(dim=0).double()
        self.products += (chosen.T @ chosen).double()

    @property
    def mean(self) -> Tensor:
        """Mean input, float64 (K,)."""
        return self.total / max(1, self.count)

    def second(self, *, about_mean: bool) -> Tensor:
        """Return the mean outer product of the inputs, or their covariance, float64 (K, K).

        Raises:
            ValueError: No input was added.
        """
        if not self.count:
            raise ValueError("no inputs were seen; run X-rays inside `observed_inputs` first")
        moments = self.products / self.count
        return moments - torch.outer(self.mean, self.mean) if about_mean else moments


@contextmanager
def observed_inputs(
    layers: Mapping[str, nn.Linear | nn.Conv2d],
) -> Iterator[dict[str, InputMoments]]:
    """Accumulate the inputs of these layers within the block, by name."""
    found = {name: InputMoments.of(layer) for name, layer in layers.items()}
    handles = [
        layer.register_forward_pre_hook(_observe(found[name], layer))
        for name, layer in layers.items()
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _observe(moments: InputMoments, layer: nn.Linear | nn.Conv2d):  # type: ignore[no-untyped-def]
    def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        moments.add(input_rows(layer, inputs[0]))

    return hook


def input_rows(layer: nn.Linear | nn.Conv2d, values: Tensor) -> Tensor:
    """Return a layer's inputs as rows of its matrix product: (M, K), patches for a convolution."""
    if isinstance(layer, nn.Linear):
        return values.reshape(-1, values.shape[-1])
    padding = layer.padding
    assert not isinstance(padding, str)
    patches = functional.unfold(
        values, layer.kernel_size, padding=padding, stride=layer.stride
    )  # (B, K, L)
    return patches.transpose(1, 2).flatten(0, 1)
