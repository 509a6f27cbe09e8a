"""Masks that no upright, whole, frontal chest X-ray gives are told apart from lungs."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from model_store.prediction import MaskPrediction
from service.imaging.lung_shapes import load_lung_shapes, shape_of
from service.imaging.mask_checks import check_mask
from service.imaging.mask_grid import grid_of, sampled
from service.imaging.shape_checks import check_lung_shapes, edge_share
from service.imaging.warning_advice import Severity, advice_on
from tests.service.lung_masks import lung_mask, xray_of

SIDE = 256


def codes(
    mask: NDArray[np.bool_], pixels: NDArray[np.uint8] | NDArray[np.uint16] | None = None
) -> list[str]:
    return [str(one.code) for one in check_lung_shapes(grid_of(mask), pixels)]


def test_lungs_have_no_warning() -> None:
    mask = lung_mask(SIDE)
    assert codes(mask, xray_of(mask)) == []


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_turned_lungs(quarters: int) -> None:
    assert codes(np.rot90(lung_mask(SIDE), quarters)) == ["turned"]


def test_lungs_upside_down() -> None:
    assert codes(lung_mask(SIDE)[::-1]) == ["turned"]


def test_two_xrays_in_one_picture() -> None:
    mask = lung_mask(SIDE)
    assert "too_many_lungs" in codes(np.concatenate([mask, mask], axis=1))
    assert "too_many_lungs" in codes(np.concatenate([mask, mask], axis=0))


def test_one_piece_is_one_lung() -> None:
    mask = lung_mask(SIDE)
    mask[:, SIDE // 2 :] = False
    assert "one_lung" in codes(mask)


def test_a_crop_through_the_lungs_is_cut_off() -> None:
    mask = lung_mask(SIDE)
    assert edge_share(mask) == 0.0
    assert "cut_off_mask" in codes(mask[SIDE // 4 : -SIDE // 4])
    assert "cut_off_mask" in codes(mask[:, SIDE // 5 : -SIDE // 5])


def test_squeezed_lungs_are_no_frontal_chest() -> None:
    assert codes(lung_mask(SIDE)[:, ::3]) == ["not_a_frontal_chest"]


def test_a_disc_is_no_frontal_chest() -> None:
    rows, columns = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    assert "not_a_frontal_chest" in codes(np.hypot(rows, columns) < SIDE / 3)


def test_inverted_grey_values_are_told() -> None:
    mask = lung_mask(SIDE)
    assert codes(mask, 255 - xray_of(mask)) == ["inverted"]
    deep = xray_of(mask).astype(np.uint16) * 16
    assert codes(mask, deep) == []
    assert codes(mask, 4080 - deep) == ["inverted"]


def test_a_mask_where_nothing_is_shown_is_beyond_the_thorax() -> None:
    mask = lung_mask(SIDE)
    pixels = xray_of(mask)
    pixels[:, SIDE // 2 :] = 0
    assert codes(mask, pixels) == ["mask_beyond_thorax"]


def test_a_box_of_one_lung_is_that_lung_without_a_warning() -> None:
    mask = lung_mask(SIDE)
    mask[:, SIDE // 2 :] = False
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
    assert check_mask(MaskPrediction(box, mask, 0.95, 0.98), xray_of(mask)) == ()


@pytest.mark.parametrize(("inset", "is_whole"), [(0.0, True), (1.0, True), (2.0, False)])
def test_a_box_of_nearly_the_whole_image_is_no_box(inset: float, is_whole: bool) -> None:
    """A mask at one side of a wide picture is narrow in a box, and not in an image."""
    mask = np.zeros((SIDE, 2 * SIDE), bool)
    mask[:, :SIDE] = lung_mask(SIDE)
    box = (inset, inset, 2.0 * SIDE - inset, SIDE - inset)
    found = [str(one.code) for one in check_mask(MaskPrediction(box, mask, 0.95, 0.98))]
    assert ("narrow_mask" in found) is not is_whole


def test_what_is_no_chest_is_refused() -> None:
    for code in ("not_a_frontal_chest", "turned", "too_many_lungs"):
        assert advice_on(code).severity is Severity.REFUSE


def test_distances_do_not_depend_on_size_or_place() -> None:
    shapes = load_lung_shapes()
    small, large = lung_mask(128), lung_mask(1024)
    moved = np.pad(lung_mask(512), ((0, 200), (300, 0)))
    distances = [shapes.distance(shape_of(sampled(mask))[0]) for mask in (small, large, moved)]
    assert distances == pytest.approx([distances[0]] * 3, abs=0.3)
