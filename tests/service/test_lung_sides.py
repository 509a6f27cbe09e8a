"""A mask is parted into the patient's lungs, and loses its islands where that is asked for."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from service.imaging.image_scale import USUAL_DISPLAY, read_scale
from service.imaging.islands import without_islands
from service.imaging.lung_sides import lung_sides
from tests.service.lung_masks import lung_mask

SIDE = 300
Mask = NDArray[np.bool_]


def halves(mask: Mask) -> tuple[Mask, Mask]:
    middle = mask.shape[1] // 2
    at_left, at_right = mask.copy(), mask.copy()
    at_left[:, middle:] = at_right[:, :middle] = False
    return at_left, at_right


def parted(mask: Mask, towards_left: tuple[int, int] = (1, 0)) -> tuple[Mask, Mask]:
    """The right and the left lung of a mask whose sides are known."""
    sides = lung_sides(mask, towards_left)
    assert sides.right is not None and sides.left is not None
    return sides.right, sides.left


@pytest.mark.parametrize("side", [64, 300, 1024])
def test_the_patients_right_lung_is_at_the_pictures_left(side: int) -> None:
    mask = lung_mask(side)
    at_left, at_right = halves(mask)
    right, left = parted(mask)
    assert np.array_equal(right, at_left)
    assert np.array_equal(left, at_right)


def test_a_mirrored_picture_whose_header_says_so_keeps_its_sides() -> None:
    mask = lung_mask(SIDE)
    at_left, at_right = halves(mask)
    right, left = parted(mask, (-1, 0))
    assert np.array_equal(right, at_right)
    assert np.array_equal(left, at_left)


def test_a_turned_picture_whose_header_says_so_keeps_its_sides() -> None:
    at_left, at_right = halves(lung_mask(SIDE))
    right, left = parted(np.rot90(at_left | at_right, -1), (0, 1))  # clockwise: the left goes up
    assert np.array_equal(right, np.rot90(at_left, -1))
    assert np.array_equal(left, np.rot90(at_right, -1))


def test_lungs_that_touch_are_parted_where_they_do() -> None:
    mask = lung_mask(SIDE)
    at_left, at_right = halves(mask)
    middle = SIDE // 2
    mask[SIDE // 2 - 4 : SIDE // 2 + 4, middle - 40 : middle + 40] = True
    right, left = parted(mask)
    assert not np.any(right & left)
    assert np.array_equal(right | left, mask)
    assert not np.any(at_left & left) and not np.any(at_right & right)


def test_islands_go_to_the_nearer_lung() -> None:
    mask = lung_mask(SIDE)
    mask[5:12, 20:30] = True
    sides = lung_sides(mask)
    assert sides.right is not None and sides.right[8, 25]


def test_one_lung_has_the_side_of_its_half_of_the_picture() -> None:
    at_left, at_right = halves(lung_mask(SIDE))
    right, left = parted(at_left)
    assert np.array_equal(right, at_left)
    assert not left.any()
    assert np.array_equal(parted(at_right)[1], at_right)


def test_one_piece_in_the_middle_has_no_side() -> None:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[100:200, 100:200] = True
    sides = lung_sides(mask)
    assert sides.right is None and sides.left is None


def test_an_empty_mask_has_two_empty_lungs() -> None:
    sides = lung_sides(np.zeros((40, 40), bool))
    assert sides.right is not None and not sides.right.any()
    assert sides.left is not None and not sides.left.any()


def test_small_pieces_are_removed_and_counted() -> None:
    mask = lung_mask(SIDE)
    speckled = mask.copy()
    speckled[5:12, 20:30] = speckled[290, 290] = True
    kept, removed_px = without_islands(speckled)
    assert np.array_equal(kept, mask)
    assert removed_px == 71
    assert speckled[290, 290]  # the mask that came is as it was


def test_a_piece_of_two_hundredths_stays() -> None:
    mask = np.zeros((200, 200), bool)
    mask[:100, :100] = True
    mask[150:160, 150:171] = True  # 210 of 10,210 pixels
    assert without_islands(mask)[1] == 0
    mask[150:160, 170] = False  # 200 of 10,200
    assert without_islands(mask)[1] == 200


def test_a_mask_without_islands_comes_back_as_it_is() -> None:
    mask = lung_mask(SIDE)
    assert without_islands(mask)[0] is mask
    empty = np.zeros((40, 40), bool)
    assert without_islands(empty) == (empty, 0) or not without_islands(empty)[0].any()


@pytest.mark.parametrize(
    ("directions", "expected"),
    [
        (["L", "F"], (1, 0)),
        (["R", "F"], (-1, 0)),
        (["F", "L"], (0, 1)),
        (["H", "R"], (0, -1)),
        (["LF", "FR"], (1, 0)),
        (["A", "F"], (1, 0)),
        ([], (1, 0)),
    ],
)
def test_sides_follow_the_header(directions: list[str], expected: tuple[int, int]) -> None:
    header = Dataset()
    header.PatientOrientation = directions
    assert read_scale(header).towards_left == expected


def test_a_picture_without_a_header_is_shown_as_usual() -> None:
    assert read_scale(None) == USUAL_DISPLAY
