"""Where the numbers of an X-ray lie beside those of the X-rays that trained the model.

The manifest holds seven quantiles of each number over a mixture of hospitals. The X-rays of a
single hospital lie somewhere inside it, all of them perhaps at one end. So what counts is whether
they lie *outside* the range of training, beyond the quantiles of 1 % and 99 %.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

WARNED = "warned"
"""Stands for an answer with a warning of the severity `look` or `refuse`."""

QUANTITIES = ("grey_level", "pixels", "confidence", "area_ratio")
"""Names in the manifest: mean of the windowed grey values (0 to 255), width times height, and, of
the lungs of the whole image, confidence and share of the image."""

LARGER_IS_FINE = frozenset({"pixels", "confidence"})
"""A larger X-ray is reduced to the network's input, as those that trained were before."""


class QuantilesOfTraining(Protocol):
    """The part of `model_store.manifest.Distribution` that is compared with."""

    @property
    def quantiles(self) -> Mapping[str, float]:
        """Numbers by share."""


@dataclass(frozen=True)
class TrainedRange:
    """Quantiles of one number over the X-rays that trained.

    Attributes:
        shares: shares of the X-rays, rising, as the manifest writes them: "0.01", "0.05", ...
        edges: the number that so many of the X-rays reach at most.
        is_open: whether larger numbers than those that trained are no difference.
    """

    shares: tuple[str, ...]
    edges: tuple[float, ...]
    is_open: bool

    def pairs(self) -> zip[tuple[str, float]]:
        """Return shares with their edges."""
        return zip(self.shares, self.edges, strict=True)

    def edges_above(self, value: float) -> range:
        """Return the indices of the edges that a number does not reach."""
        return range(bisect.bisect_right(self.edges, value), len(self.edges))

    def is_outside(self, value: float) -> bool:
        """Say whether a number lies beyond the first edge, or the last where that counts."""
        return value < self.edges[0] or (value > self.edges[-1] and not self.is_open)


def trained_range(name: str, distribution: QuantilesOfTraining) -> TrainedRange:
    """Return the range of a number from what the manifest says.

    Args:
        name: one of `QUANTITIES`.
        distribution: from `Manifest.training_distributions`.
    """
    rising = sorted(distribution.quantiles.items(), key=lambda one: float(one[0]))
    shares, edges = zip(*rising, strict=True)
    return TrainedRange(shares, edges, name in LARGER_IS_FINE)


def trained_ranges(
    distributions: Mapping[str, QuantilesOfTraining],
) -> dict[str, TrainedRange]:
    """Return the range of each number that a manifest knows; empty where it knows none."""
    return {
        name: trained_range(name, distributions[name])
        for name in QUANTITIES
        if name in distributions and distributions[name].quantiles
    }
