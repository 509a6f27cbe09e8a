"""Distances are exact, and whoever is as near to both lungs belongs to the first."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.imaging.distances import distances_within, squares_of
from service.imaging.lung_sides import nearer_to_second


def nearest_square(seed: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Squared distance of every pixel to the nearest one of a seed, from each pair of pixels."""
    rows, columns = np.indices(seed.shape)
    best = np.full(seed.shape, np.iinfo(np.int64).max, np.int64)
    for row, column in np.argwhere(seed):
        best = np.minimum(best, (rows - row) ** 2 + (columns - column) ** 2)
    return best


@given(
    height=st.integers(3, 40),
    width=st.integers(3, 40),
    points=st.lists(st.tuples(st.integers(0, 39), st.integers(0, 39)), min_size=1, max_size=6),
)
def test_a_tie_goes_to_the_first_of_two_mirrored_lungs(
    height: int, width: int, points: list[tuple[int, int]]
) -> None:
    first = np.zeros((height, width), bool)
    for row, column in points:
        first[row % height, column % width] = True
    second = np.ascontiguousarray(first[:, ::-1])  # every pixel of the middle column is a tie
    squares = [nearest_square(seed) for seed in (first, second)]
    assert np.array_equal(squares_of(distances_within(~first)), squares[0])
    assert np.array_equal(nearer_to_second(first, second), squares[1] < squares[0])


@pytest.mark.parametrize("offset", range(16))
def test_distances_do_not_depend_on_where_an_array_lies(offset: int) -> None:
    seed = np.random.default_rng(3).random((96, 96)) < 0.002
    memory = np.zeros(seed.size + 64, bool)
    elsewhere = memory[offset : offset + seed.size].reshape(seed.shape)
    elsewhere[:] = ~seed
    assert np.array_equal(squares_of(distances_within(elsewhere)), nearest_square(seed))


@pytest.mark.parametrize("away", [300, 700])
def test_the_farthest_distance_is_exact(away: int) -> None:
    region = np.ones((away + 1, 3), bool)
    region[0, 0] = False
    found = squares_of(distances_within(region))
    rows, columns = np.indices(region.shape)
    assert np.array_equal(found, rows**2 + columns**2)
