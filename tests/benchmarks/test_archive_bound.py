"""The bound of an archive, against cases with a known answer."""

from __future__ import annotations

import pytest

from benchmarks.service.archive_bound import bound_per_s
from benchmarks.service.archive_rate import steady_parts_per_s


def test_parts_on_the_same_processors_add_their_times_and_others_do_not() -> None:
    assert bound_per_s(20.0, 20.0, shares_processors=True) == pytest.approx(10.0)
    assert bound_per_s(20.0, 5.0, shares_processors=True) == pytest.approx(4.0)
    assert bound_per_s(20.0, 5.0, shares_processors=False) == 5.0


def test_the_rate_leaves_out_models_that_still_start_and_actors_that_ran_out_of_work() -> None:
    times = [0.0, 5.0, *(10 + 0.5 * number for number in range(6)), 20.0, 30.0]
    assert steady_parts_per_s(times[::-1]) == pytest.approx(2.0)
    with pytest.raises(ValueError, match="7 parts tell no rate"):
        steady_parts_per_s(times[:7])
