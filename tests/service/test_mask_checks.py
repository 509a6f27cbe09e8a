"""Each warning appears for what it names, and not for a plain pair of lungs."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from model_store.boxes import Box
from model_store.grey_levels import grey_histogram
from model_store.prediction import MaskPrediction
from service.imaging.mask_checks import check_image, check_mask
from service.imaging.response_warnings import ImageWarning
from tests.service.lung_masks import lung_mask

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "cxr"
BOX = (10.0, 10.0, 90.0, 90.0)


def lungs() -> NDArray[np.bool_]:
    return lung_mask(100)


def codes(warnings: tuple[ImageWarning, ...]) -> list[str]:
    return [str(warning.code) for warning in warnings]


def check(
    mask: NDArray[np.bool_],
    score: float,
    box: Box,
    *,
    confidence: float = 0.98,
    is_whole_image: bool = False,
) -> tuple[ImageWarning, ...]:
    return check_mask(MaskPrediction(box, mask, score, confidence), is_whole_image=is_whole_image)


def test_a_plain_mask_has_no_warning() -> None:
    assert check(lungs(), 0.95, BOX) == ()


def test_an_empty_mask_is_said_and_nothing_else() -> None:
    assert codes(check(np.zeros((100, 100), bool), 0.1, BOX)) == ["empty_mask"]


def test_a_mask_beside_its_box() -> None:
    mask = np.zeros((100, 100), bool)
    mask[:5, :5] = True
    assert codes(check(mask, 0.9, BOX)) == ["mask_misses_box"]


def test_a_mask_that_leaves_its_box() -> None:
    mask = np.zeros((100, 100), bool)
    mask[20:60, 20:60] = True
    assert codes(check(mask, 0.9, (20.0, 20.0, 60.0, 49.0))) == [
        "mask_leaves_box",
        "implausibly_large_mask",
    ]
    assert "mask_leaves_box" not in codes(check(mask, 0.9, (20.0, 20.0, 60.0, 51.0)))


def test_areas_that_no_lung_has() -> None:
    small = np.zeros((100, 100), bool)
    small[40:50, 40:50] = True
    assert codes(check(small, 0.9, BOX)) == ["implausibly_small_mask"]
    full = np.zeros((100, 100), bool)
    full[10:90, 10:90] = True
    assert codes(check(full, 0.9, BOX)) == ["implausibly_large_mask"]
    whole = (0.0, 0.0, 100.0, 100.0)
    mostly = np.ones((100, 100), bool)
    mostly[:20] = False
    assert codes(check(mostly, 0.9, whole, is_whole_image=True)) == ["implausibly_large_mask"]


def test_one_lung_in_a_box_around_two_is_said() -> None:
    one = lungs()
    one[:, 50:] = False
    assert codes(check(one, 0.95, BOX)) == ["narrow_mask"]
    one[40:42, 84] = True  # specks of the other one do not hide that it is missing
    assert codes(check(one, 0.95, BOX)) == ["narrow_mask"]
    assert check(one, 0.95, (10.0, 10.0, 46.0, 90.0)) == ()  # its own box
    whole = (0.0, 0.0, 100.0, 100.0)
    assert "one_lung" in codes(check(one, 0.95, whole, is_whole_image=True))
    assert "narrow_mask" not in codes(check(one, 0.95, whole, is_whole_image=True))


def test_one_lung_in_half_of_the_picture_is_no_narrow_mask() -> None:
    """Arm and spine are free beside it, but nowhere is room for another lung."""
    one = np.zeros((100, 100), bool)
    one[15:85, 14:40] = True
    half = (0.0, 0.0, 50.0, 100.0)
    assert check(one, 0.95, half) == ()
    at_one_side = np.roll(one, -12, axis=1)
    assert codes(check(at_one_side, 0.95, half)) == ["narrow_mask"]


def test_a_box_that_cuts_the_other_lung_off_is_said() -> None:
    """The room between mask and edge is spine and less than half of a lung."""
    one = np.zeros((100, 100), bool)
    one[15:85, 14:38] = True
    assert check(one, 0.95, (10.0, 10.0, 48.0, 90.0)) == ()
    assert codes(check(one, 0.95, (10.0, 10.0, 49.0, 90.0))) == ["narrow_mask"]
    mirrored = one[:, ::-1].copy()
    assert codes(check(mirrored, 0.95, (51.0, 10.0, 90.0, 90.0))) == ["narrow_mask"]
    assert check(mirrored, 0.95, (52.0, 10.0, 90.0, 90.0)) == ()


def test_a_lung_missing_at_the_edge_of_the_picture_is_said() -> None:
    """There an arm has room beside a lung, but not as much as another lung takes."""
    one = np.zeros((100, 100), bool)
    one[15:85, 24:48] = True
    assert check(one, 0.95, (0.5, 10.0, 52.0, 90.0)) == ()
    one = np.roll(one, 2, axis=1)
    assert codes(check(one, 0.95, (0.5, 10.0, 54.0, 90.0))) == ["narrow_mask"]


def test_a_mask_in_pieces_is_said() -> None:
    pieces = lungs()
    pieces[20:80, 60:80] &= np.arange(60)[:, None] % 6 < 3
    assert codes(check(pieces, 0.95, BOX)) == ["fragmented_mask"]
    speckled = lungs()
    speckled[[3, 95], 20] = True
    assert check(speckled, 0.95, BOX) == ()


@pytest.mark.parametrize(("score", "is_low"), [(0.74, True), (0.75, False), (float("nan"), True)])
def test_a_low_or_missing_score(score: float, is_low: bool) -> None:
    assert ("low_score" in codes(check(lungs(), score, BOX))) is is_low


@pytest.mark.parametrize(
    ("confidence", "is_low"), [(0.939, True), (0.94, False), (float("nan"), True)]
)
def test_a_mask_whose_border_the_model_does_not_see(confidence: float, is_low: bool) -> None:
    expected = ["undecided_mask"] if is_low else []
    assert codes(check(lungs(), 0.95, BOX, confidence=confidence)) == expected


def test_messages_say_image_when_no_box_was_given() -> None:
    small = np.zeros((100, 100), bool)
    small[0, 0] = True
    (warning,) = check(small, 0.9, (0.0, 0.0, 100.0, 100.0), is_whole_image=True)
    assert "image" in warning.message
    assert "box" not in warning.message


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("value", [0, 100, 255])
def test_constant_images(dtype: type[np.unsignedinteger], value: int) -> None:
    assert codes(check_image(grey_histogram(np.full((64, 64), value, dtype)))) == ["constant_image"]
    nearly = np.full((64, 64), value, dtype)
    nearly[0, 0] ^= 1
    assert codes(check_image(grey_histogram(nearly))) == ["constant_image"]


def test_saturated_images() -> None:
    pixels = np.tile(np.arange(256, dtype=np.uint8), (64, 1))
    assert check_image(grey_histogram(pixels)) == ()
    pixels[:, :80] = 255
    assert codes(check_image(grey_histogram(pixels))) == ["saturated_image"]


def test_a_twelve_bit_image_in_sixteen_bits_is_fine() -> None:
    pixels = np.tile(np.linspace(0, 4095, 256).astype(np.uint16), (64, 1))
    assert check_image(grey_histogram(pixels)) == ()


def picture(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image)


def test_human_masks_of_real_xrays_are_never_refused_and_seldom_warned_of() -> None:
    if not (SHARED / "manifest.csv").exists():
        pytest.skip("needs ../shared/data/cxr, the chest X-rays with human masks")
    with (SHARED / "manifest.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "val"][::4]
    found: list[str] = []
    for row in rows:
        pixels = picture(SHARED / "val" / "images" / f"{row['name']}.jpg")
        mask = picture(SHARED / "val" / "masks" / f"{row['name']}.png") > 0
        whole = (0.0, 0.0, float(mask.shape[1]), float(mask.shape[0]))
        answer = MaskPrediction(whole, mask, 0.95, 0.98)
        remarks = check_image(grey_histogram(pixels)) + check_mask(answer, pixels)
        found += codes(remarks)
    assert len(rows) >= 40
    assert set(found) <= {"cut_off_mask"}  # the picture's edge does cut through the lungs
    assert len(found) <= 1
