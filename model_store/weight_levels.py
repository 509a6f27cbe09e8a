"""The integers that weights of few levels can have.

A weight of L levels is one of L integers around 0, evenly spaced. Odd L holds 0 (three levels: -1,
0, 1), even L does not (four levels: -3, -1, 1, 3). All of them are within the ±63 of
`model_store.integers`, so code for int8 weights works for these. Only their form on disk is smaller
(`model_store.packed_weights`).

Nothing here imports PyTorch, because processes without it read the bits of a manifest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from torch import Tensor

EIGHT_BIT_LEVELS: Final = 127
"""The integers of 8-bit models, ±63."""

MOST_PACKED_LEVELS = 16
"""With more levels a byte has one digit, and packing gains nothing."""


@dataclass(frozen=True)
class WeightLevels:
    """The integers that a weight can have.

    Attributes:
        count: Their number: 2 to 16, or 127 for the ±63 of 8-bit models.

    Raises:
        ValueError: Another count.
    """

    count: int

    def __post_init__(self) -> None:
        """Refuse counts that are neither packed nor the ±63 of 8-bit models."""
        if not 2 <= self.count <= MOST_PACKED_LEVELS and self.count != EIGHT_BIT_LEVELS:
            raise ValueError(
                f"weights of {self.count} levels: 2 to {MOST_PACKED_LEVELS} can be packed, and "
                f"{EIGHT_BIT_LEVELS} are the ±63 of 8-bit models"
            )

    @property
    def spacing(self) -> int:
        """Distance between neighbouring integers: 1 if zero is one of them, otherwise 2."""
        return 1 if self.count % 2 else 2

    @property
    def largest(self) -> int:
        """The largest integer."""
        return (self.count - 1) * self.spacing // 2

    @property
    def integers(self) -> tuple[int, ...]:
        """All integers, in order."""
        return tuple(range(-self.largest, self.largest + 1, self.spacing))

    @property
    def weights_per_byte(self) -> int:
        """Weights in a byte, each a digit to the base ``count``."""
        return max(1, int(math.log(256) / math.log(self.count) + 1e-9))

    @property
    def bits(self) -> int:
        """Bits that distinguish the levels; 8 for 8-bit models, which are not packed."""
        return 8 if self.weights_per_byte == 1 else math.ceil(math.log2(self.count))

    def nearest(self, units: Tensor) -> Tensor:
        """Return the level nearest to each number, as floats of the same shape.

        Args:
            units: Weights divided by their scale, any shape.
        """
        digits = ((units + self.largest) / self.spacing).round().clamp(0, self.count - 1)
        return digits * self.spacing - self.largest
