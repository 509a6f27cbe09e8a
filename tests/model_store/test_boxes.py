"""A box beyond the edge by rounding is put on the edge; further beyond it is refused."""

import pytest

from model_store.boxes import BoxError, validate_box


@pytest.mark.parametrize("beyond", [1e-3, 5e-4, 1e-9])
def test_rounding_beyond_an_edge_is_clipped(beyond: float) -> None:
    assert validate_box((-beyond, -beyond, 60 + beyond, 40 + beyond), 60, 40) == (0, 0, 60, 40)


@pytest.mark.parametrize("beyond", [2e-3, 0.5])
@pytest.mark.parametrize("place", range(4))
def test_further_beyond_an_edge_is_refused(beyond: float, place: int) -> None:
    box = [0.0, 0.0, 60.0, 40.0]
    box[place] += beyond if place >= 2 else -beyond
    with pytest.raises(BoxError, match="outside"):
        validate_box(box, 60, 40)


def test_a_box_wholly_beyond_an_edge_stays_refused() -> None:
    with pytest.raises(BoxError):
        validate_box((60.0005, 0, 60.0009, 40), 60, 40)
