"""Masks of one answer stored as bits, so that only one at a time takes a byte a pixel.

With a byte a pixel, thirty-two boxes on a large X-ray took a gigabyte, because each mask exists
three times. Unpacking 40 million pixels takes some milliseconds; small masks are not packed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Protocol, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

KEPT_WHOLE_PX = 16_000_000
"""Most pixels of all masks of an answer that are not packed: 15 MB."""


class _Masked(Protocol):
    """A dataclass with a mask."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def mask(self) -> NDArray[np.bool_]: ...


Masked = TypeVar("Masked", bound=_Masked)


class HeldMasks(Sequence[Masked]):
    """A sequence of items with masks; reading an item unpacks its mask."""

    def __init__(self, are_packed: bool, items: Iterable[Masked] = ()) -> None:
        """Hold the items.

        Args:
            are_packed: whether masks are packed.
            items: items, consumed one at a time, so that those of an iterator never exist together.
        """
        self._are_packed = are_packed
        self._held: list[tuple[Masked, tuple[int, ...] | None]] = []
        self.extend(items)

    def append(self, item: Masked) -> None:
        """Append an item."""
        if not self._are_packed:
            self._held.append((item, None))
            return
        bits = np.packbits(item.mask)
        self._held.append((_with_mask(item, bits), item.mask.shape))

    def extend(self, items: Iterable[Masked]) -> None:
        """Append several items."""
        for item in items:
            self.append(item)

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self._held)

    @overload
    def __getitem__(self, index: int) -> Masked: ...

    @overload
    def __getitem__(self, index: slice) -> list[Masked]: ...

    def __getitem__(self, index: int | slice) -> Masked | list[Masked]:
        """Return an item with its mask unpacked, or several."""
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        item, shape = self._held[index]
        if shape is None:
            return item
        bits = np.unpackbits(np.asarray(item.mask), count=int(np.prod(shape)))
        return _with_mask(item, bits.reshape(shape).view(np.bool_))


def _with_mask(item: Masked, mask: NDArray[Any]) -> Masked:
    return dataclasses.replace(item, mask=mask)
