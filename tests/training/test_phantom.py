"""The phantom is deterministic, its truth fits its picture, and it measures like real X-rays."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from model_store.conventions import CONVENTIONS
from training.phantom import Phantom, draw_phantom
from training.phantom.__main__ import main

SEEDS = range(40)
SIZE = (224, 224)

# Share of the picture that is lung on the training split: least and most of 261 lung_field
# masks and of 500 whole_lung masks, and their medians.
REAL_AREA = {"lung_field": (0.099, 0.404), "whole_lung": (0.198, 0.670)}
REAL_MEDIAN_AREA = {"lung_field": 0.238, "whole_lung": 0.324}

# Width over height of the box round both lungs: 5th and 95th percentiles of all four sources.
REAL_BOX_RATIO = (0.88, 1.68)


@pytest.fixture(scope="module")
def phantoms() -> list[Phantom]:
    """Forty patients at 224 x 224."""
    return [draw_phantom(seed, SIZE) for seed in SEEDS]


def box_of(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Half-open box of a mask: x0, y0, x1, y1."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def dice(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Overlap of two masks, 0 to 1."""
    return float(2.0 * (one & other).sum() / (one.sum() + other.sum()))


def rows_between_lungs(phantom: Phantom) -> Iterator[tuple[int, int, int]]:
    """Middle rows of the whole lungs: row, first and last column of the mediastinum."""
    _, top, _, bottom = box_of(phantom.whole_lung)
    for row in range((3 * top + bottom) // 4, (top + 2 * bottom) // 3, 4):
        left = np.flatnonzero(phantom.image_left_lung("whole_lung")[row])
        right = np.flatnonzero(phantom.image_right_lung("whole_lung")[row])
        yield row, int(left[-1]) + 1, int(right[0])


@pytest.mark.parametrize("size", [(64, 80), SIZE])
def test_same_seed_gives_the_same_bytes(size: tuple[int, int]) -> None:
    """A seed is reproducible, picture and truth."""
    first, second = draw_phantom(11, size), draw_phantom(11, size)
    assert np.array_equal(first.image, second.image)
    assert np.array_equal(first.lung_field, second.lung_field)
    assert np.array_equal(first.whole_lung, second.whole_lung)
    assert np.array_equal(first.image_left_half, second.image_left_half)


def test_drawing_leaves_the_global_random_state_alone() -> None:
    """Training beside it must not see other random numbers."""
    np.random.seed(5)
    expected = np.random.random(4)
    np.random.seed(5)
    draw_phantom(1, (64, 64))
    assert np.array_equal(np.random.random(4), expected)


def test_different_seeds_are_different_patients(phantoms: list[Phantom]) -> None:
    """Seeds vary the anatomy and not only the noise."""
    for one, other in pairwise(phantoms):
        assert not np.array_equal(one.image, other.image)
        assert dice(one.whole_lung, other.whole_lung) < 0.995
    areas = [phantom.lung_field.mean() for phantom in phantoms]
    assert np.std(areas) > 0.02


@pytest.mark.parametrize("size", [(32, 32), (100, 333), (333, 100), (288, 288), (301, 257)])
def test_shapes_and_types_follow_the_size(size: tuple[int, int]) -> None:
    """Any height and width is drawn, with both lungs in it."""
    phantom = draw_phantom(3, size)
    assert phantom.image.shape == size
    assert phantom.image.dtype == np.uint8
    assert phantom.image.std() > 5.0
    for convention in CONVENTIONS:
        assert phantom.mask(convention).shape == size
        assert phantom.mask(convention).dtype == np.bool_
        assert phantom.image_left_lung(convention).any()
        assert phantom.image_right_lung(convention).any()


def test_left_and_right_lungs_are_disjoint_and_make_up_the_mask(phantoms: list[Phantom]) -> None:
    """The two sides partition the mask."""
    for phantom in phantoms:
        for convention in CONVENTIONS:
            left = phantom.image_left_lung(convention)
            right = phantom.image_right_lung(convention)
            assert not (left & right).any()
            assert np.array_equal(left | right, phantom.mask(convention))
            assert box_of(left)[2] <= box_of(right)[0] + 0.1 * SIZE[1]  # a tilted spine overlaps
            assert np.flatnonzero(left)[0] != np.flatnonzero(right)[0]


def test_each_lung_is_one_piece_without_holes(phantoms: list[Phantom]) -> None:
    """Annotators draw one closed outline per lung."""
    for phantom in phantoms:
        for convention in CONVENTIONS:
            for lung in (phantom.image_left_lung(convention), phantom.image_right_lung(convention)):
                labels, _ = ndimage.label(lung, structure=np.ones((3, 3)))
                largest = np.bincount(labels.ravel())[1:].max()
                assert largest >= 0.995 * lung.sum()
                assert np.array_equal(ndimage.binary_fill_holes(lung), lung)


def test_field_lies_in_the_whole_lung_and_leaves_the_heart_out(phantoms: list[Phantom]) -> None:
    """The two conventions differ by heart and mediastinum."""
    left_larger = 0
    for phantom in phantoms:
        assert not (phantom.lung_field & ~phantom.whole_lung).any()
        heart = phantom.whole_lung & ~phantom.lung_field
        assert 0.05 < heart.sum() / phantom.whole_lung.sum() < 0.5
        left_larger += (heart & ~phantom.image_left_half).sum() > heart[
            phantom.image_left_half
        ].sum()
    # The heart lies on the right of the picture.
    assert left_larger >= 0.9 * len(phantoms)


def test_areas_are_those_of_annotated_xrays(phantoms: list[Phantom]) -> None:
    """Lungs take the share of the picture that they take in real ones."""
    for convention in CONVENTIONS:
        areas = np.array([phantom.mask(convention).mean() for phantom in phantoms])
        least, most = REAL_AREA[convention]
        assert least * 0.8 < areas.min()
        assert areas.max() < most
        assert np.median(areas) == pytest.approx(REAL_MEDIAN_AREA[convention], rel=0.15)


def test_box_ratio_is_that_of_annotated_xrays(phantoms: list[Phantom]) -> None:
    """Lungs are as broad and as tall as real ones, and vary as much."""
    ratios = []
    for phantom in phantoms:
        x0, y0, x1, y1 = box_of(phantom.whole_lung)
        ratios.append((x1 - x0) / (y1 - y0))
    assert np.percentile(ratios, 5) > 0.95 * REAL_BOX_RATIO[0]
    assert np.percentile(ratios, 95) < 1.05 * REAL_BOX_RATIO[1]
    assert np.std(ratios) > 0.08


def test_lungs_are_darker_than_the_mediastinum(phantoms: list[Phantom]) -> None:
    """Air is dark and tissue bright in every picture."""
    for seed, phantom in zip(SEEDS, phantoms, strict=True):
        image = phantom.image.astype(np.float64)
        between = [
            image[row, start:stop].mean() for row, start, stop in rows_between_lungs(phantom)
        ]
        assert np.median(image[phantom.lung_field]) + 10.0 < np.mean(between), f"seed {seed}"


def test_image_edge_lies_on_the_mask_edge() -> None:
    """The step in brightness across the diaphragm is where the mask ends, at any size."""
    for seed in range(8):
        phantom = draw_phantom(seed, (384, 384))
        lung = phantom.image_left_lung("lung_field")
        image = phantom.image.astype(np.float64)
        reach = 6
        inside = lung & ~ndimage.binary_erosion(lung, iterations=reach)
        outside = ndimage.binary_dilation(lung, iterations=reach) & ~lung
        assert image[outside].mean() > image[inside].mean() + 3.0, f"seed {seed}"


def test_right_dome_is_mostly_the_higher_one(phantoms: list[Phantom]) -> None:
    """The patient's right lung is on the left of the picture."""
    higher = 0
    for phantom in phantoms:
        lowest = []
        for lung in (phantom.image_left_lung("whole_lung"), phantom.image_right_lung("whole_lung")):
            x0, _, x1, _ = box_of(lung)
            middle = lung[:, (x0 + x1) // 2]
            lowest.append(np.flatnonzero(middle)[-1])
        higher += lowest[0] <= lowest[1]
    assert higher >= 0.7 * len(phantoms)


@pytest.mark.parametrize("seed", [0, 7, 23])
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_size_changes_the_sampling_and_not_the_patient(seed: int, convention: str) -> None:
    """A picture of three times the size shows the same patient."""
    small, large = draw_phantom(seed, (256, 256)), draw_phantom(seed, (768, 768))
    every_third = large.mask(convention)[1::3, 1::3]  # the centres of the small picture's pixels
    assert dice(small.mask(convention), every_third) > 0.999
    reduced = np.asarray(Image.fromarray(large.image).resize((256, 256), Image.Resampling.BOX))
    similarity = np.corrcoef(reduced.ravel(), small.image.ravel())[0, 1]
    assert similarity > 0.95


def test_aspect_keeps_the_proportions_of_the_patient() -> None:
    """A wide picture does not stretch the patient."""
    for seed in range(6):
        ratios = []
        for size in ((300, 300), (300, 420), (360, 300)):
            x0, y0, x1, y1 = box_of(draw_phantom(seed, size).whole_lung)
            ratios.append((x1 - x0) / (y1 - y0))
        assert max(ratios) < 1.05 * min(ratios)


def test_whole_lungs_lie_inside_the_picture_for_most_patients(phantoms: list[Phantom]) -> None:
    """A cut lung is rare, as in a clinic."""
    cut = sum(
        bool(mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any())
        for mask in (phantom.whole_lung for phantom in phantoms)
    )
    assert cut <= 0.1 * len(phantoms)


@pytest.mark.parametrize("size", [(31, 64), (64, 31), (0, 0)])
def test_too_small_a_size_is_refused(size: tuple[int, int]) -> None:
    """Too few pixels are an error, not an empty mask."""
    with pytest.raises(ValueError, match="at least 32"):
        draw_phantom(0, size)


def test_negative_seed_is_refused() -> None:
    """NumPy refuses negative seeds with less clear words."""
    with pytest.raises(ValueError, match="seed"):
        draw_phantom(-1)


def test_unknown_convention_is_refused() -> None:
    """The message names what is allowed."""
    with pytest.raises(ValueError, match="lung_field"):
        draw_phantom(0, (64, 64)).mask("lungs")


def test_command_writes_the_picture_of_the_seed(tmp_path: Path) -> None:
    """The command makes what the function draws."""
    path = tmp_path / "made" / "phantom.png"
    main(["--seed", "4", "--size", "96", "--out", str(path)])
    with Image.open(path) as picture:
        assert picture.mode == "L"
        assert np.array_equal(np.asarray(picture), draw_phantom(4, (96, 96)).image)


def test_example_is_the_picture_that_the_command_makes() -> None:
    """The stored example belongs to the present code."""
    path = Path(__file__).resolve().parents[2] / "examples" / "phantom.png"
    with Image.open(path) as picture:
        stored = np.asarray(picture).astype(np.int16)
    drawn = draw_phantom(7, (1024, 1024)).image.astype(np.int16)
    assert stored.shape == drawn.shape
    # Other builds of NumPy may round differently; a changed drawing differs everywhere.
    assert np.mean(np.abs(stored - drawn) > 2) < 0.01
