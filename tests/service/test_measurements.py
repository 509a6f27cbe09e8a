"""Numbers about lungs are those that can be counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from service.imaging.dicom_plane import PixelSpacing
from service.imaging.image_scale import USUAL_DISPLAY, ImageScale
from service.imaging.lung_sides import UNKNOWN_SIDES, LungSides
from service.imaging.measurements import measure_lungs, measure_structure

SPACING = PixelSpacing("ImagerPixelSpacing", "detector", ("0.2", "0.1"))


def lungs() -> tuple[LungSides, np.ndarray]:
    right, left = np.zeros((2, 100, 100), bool)
    right[10:60, 10:40] = True  # 50 x 30
    left[20:60, 60:85] = True  # 40 x 25
    return LungSides(right, left), right | left


def test_areas_and_lengths_in_pixels_and_millimetres() -> None:
    sides, mask = lungs()
    found = measure_lungs(0, mask, sides, np.zeros((100, 100), np.uint8), ImageScale(SPACING))
    assert found.right_lung is not None and found.left_lung is not None
    assert (found.right_lung.area_px, found.left_lung.area_px) == (1500, 1000)
    assert found.right_lung.area_mm2 == pytest.approx(30.0)
    assert (found.right_lung.height_px, found.right_lung.width_px) == (50, 30)
    assert found.right_lung.height_mm == pytest.approx(10.0)
    assert found.right_lung.width_mm == pytest.approx(3.0)
    assert (found.lungs.area_px, found.lungs.height_px, found.lungs.width_px) == (2500, 50, 75)
    assert found.area_ratio == pytest.approx(1.5)
    assert found.asymmetry == pytest.approx(0.2)
    assert found.spacing is not None and found.spacing.source == "ImagerPixelSpacing"
    assert found.spacing.plane == "detector"


def test_nothing_is_in_millimetres_without_a_spacing() -> None:
    sides, mask = lungs()
    found = measure_lungs(0, mask, sides, np.zeros((100, 100), np.uint8), USUAL_DISPLAY)
    assert found.spacing is None
    assert found.lungs.area_mm2 is found.lungs.height_mm is found.lungs.width_mm is None


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey_values_are_those_of_numpy(dtype: type[np.uint8 | np.uint16]) -> None:
    pixels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (100, 100)).astype(dtype)
    _, mask = lungs()
    found = measure_structure(mask, pixels, None)
    inside = pixels[mask].astype(float)
    assert found.grey_mean == pytest.approx(inside.mean(), abs=1e-3)
    assert found.grey_sd == pytest.approx(inside.std(), abs=1e-3)
    expected = np.quantile(inside, [0.05, 0.5, 0.95], method="inverted_cdf")
    assert [found.grey_p5, found.grey_p50, found.grey_p95] == expected.tolist()


def test_an_empty_or_unknown_lung_has_no_ratio() -> None:
    sides, mask = lungs()
    nothing = np.zeros_like(mask)
    pixels = np.zeros((100, 100), np.uint8)
    one = measure_lungs(0, mask, LungSides(sides.right, nothing), pixels, ImageScale(SPACING))
    assert one.area_ratio is None and one.asymmetry == 1.0
    assert one.left_lung is not None and one.left_lung.grey_mean is None
    unknown = measure_lungs(0, mask, UNKNOWN_SIDES, pixels, ImageScale(SPACING))
    assert unknown.right_lung is None and unknown.left_lung is None and unknown.asymmetry is None
    assert unknown.lungs.area_px == 2500
