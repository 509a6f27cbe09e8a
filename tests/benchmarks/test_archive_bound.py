"""The bound of an archive, against cases with a known answer."""

from __future__ import annotations

import pytest

from benchmarks.service.archive_bound import bound_per_s


def test_parts_on_the_same_processors_add_their_times_and_others_do_not() -> None:
    assert bound_per_s(20.0, 20.0, shares_processors=True) == pytest.approx(10.0)
    assert bound_per_s(20.0, 5.0, shares_processors=True) == pytest.approx(4.0)
    assert bound_per_s(20.0, 5.0, shares_processors=False) == 5.0
