"""Masks that wait as bits come back as they were, and take an eighth of the memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from service.imaging.packed_masks import HeldMasks


@dataclass(frozen=True)
class Named:
    name: str
    mask: NDArray[np.bool_]


def some(shape: tuple[int, int] = (37, 53), count: int = 5) -> list[Named]:
    rng = np.random.default_rng(1)
    return [Named(str(number), rng.random(shape) > 0.5) for number in range(count)]


@pytest.mark.parametrize("are_packed", [False, True])
def test_what_is_read_is_what_was_added(are_packed: bool) -> None:
    items = some()
    held = HeldMasks(are_packed, items[:3])
    held.append(items[3])
    held.extend(items[4:])
    assert len(held) == 5
    for found, item in zip(held, items, strict=True):
        assert found.name == item.name
        assert found.mask.dtype == np.bool_
        assert np.array_equal(found.mask, item.mask)
    assert [one.name for one in held[1:3]] == ["1", "2"]
    assert held[-1].name == "4"
    with pytest.raises(IndexError):
        held[5]


def test_small_masks_are_the_same_objects() -> None:
    items = some()
    assert all(one is item for one, item in zip(HeldMasks(False, items), items, strict=True))


def test_packed_masks_are_never_there_at_their_size_together() -> None:
    side, count = 1000, 16

    def drawn() -> Iterator[Named]:
        for number in range(count):
            yield Named(str(number), np.full((side, side), number % 2 == 0))

    tracemalloc.start()
    try:
        held = HeldMasks(True, drawn())
        areas = [int(np.count_nonzero(one.mask)) for one in held]
        _, most_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert areas == [side * side, 0] * (count // 2)
    assert most_bytes < count * side * side // 8 + 4 * side * side
