"""The position of an X-ray's numbers in the range of the training X-rays.

The manifest has seven quantiles of each number over a mixture of hospitals. The X-rays of a single
hospital are somewhere inside, perhaps all at one end. So the criterion is whether they are
*outside* the range of training, beyond the quantiles of 1 % and 99 %.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

WARNED = "warned"
"""Name of the quantity that is 1 for an answer with a warning of severity `look` or `refuse`."""

QUANTITIES = ("grey_level", "pixels", "confidence", "area_ratio")
"""Names in the manifest: mean of the windowed grey values (0 to 255), width times height, and, of
the lungs of the whole image, confidence and share of the image."""

LARGER_IS_FINE = frozenset({"pixels", "confidence"})
"""Quantities whose larger values do not count as a difference: a larger X-ray is reduced to the
network's input anyway."""


class QuantilesOfTraining(Protocol):
    """The used part of `model_store.manifest.Distribution`."""

    @property
    def quantiles(self) -> Mapping[str, float]:
        """Quantiles by share."""


@dataclass(frozen=True)
class TrainedRange:
    """Quantiles of one number over the training X-rays.

    Attributes:
        shares: shares of the X-rays, rising, as the manifest writes them: "0.01", "0.05", ...
        edges: quantile of each share.
        is_open: whether numbers above the range do not count as outside.
    """

    shares: tuple[str, ...]
    edges: tuple[float, ...]
    is_open: bool

    def pairs(self) -> zip[tuple[str, float]]:
        """Return shares with their edges."""
        return zip(self.shares, self.edges, strict=True)

    def edges_above(self, value: float) -> range:
        """Return the indices of the edges above a number."""
        return range(bisect.bisect_right(self.edges, value), len(self.edges))

    def is_outside(self, value: float) -> bool:
        """Return whether a number is below the first edge, or above the last if that counts."""
        return value < self.edges[0] or (value > self.edges[-1] and not self.is_open)


def trained_range(name: str, distribution: QuantilesOfTraining) -> TrainedRange:
    """Return the range of a number from its distribution in the manifest.

    Args:
        name: name in `QUANTITIES`.
        distribution: from `Manifest.training_distributions`.
    """
    rising = sorted(distribution.quantiles.items(), key=lambda one: float(one[0]))
    shares, edges = zip(*rising, strict=True)
    return TrainedRange(shares, edges, name in LARGER_IS_FINE)


def trained_ranges(
    distributions: Mapping[str, QuantilesOfTraining],
) -> dict[str, TrainedRange]:
    """Return the range of each number in a manifest; empty without distributions."""
    return {
        name: trained_range(name, distributions[name])
        for name in QUANTITIES
        if name in distributions and distributions[name].quantiles
    }
