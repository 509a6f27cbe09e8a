"""Budgets follow codec, pixels and bytes, and cover honest X-rays by a factor of three."""

from __future__ import annotations

import pytest

from model_store.pictures.pixel_coding import PixelCoding
from service.workers.costs import (
    FACTOR,
    LEAST_S,
    MOST_CODED_BYTES_PER_PIXEL,
    OPENING,
    ORDINARY_OPENING_S,
    ORDINARY_RENDERING_S,
    first_grant_s,
    most_opening_budget_s,
    opening_budget_s,
    rendering_budget_s,
)


@pytest.mark.parametrize("codec", PixelCoding)
def test_a_budget_is_three_times_the_cost_and_grows_with_pixels_and_bytes(
    codec: PixelCoding,
) -> None:
    large = opening_budget_s(codec, 40_000_000, 60_000_000)
    assert large == FACTOR * OPENING[codec].seconds(40_000_000, 60_000_000)
    assert opening_budget_s(codec, 20_000_000, 60_000_000) < large
    assert opening_budget_s(codec, 40_000_000, 30_000_000) < large
    assert large <= most_opening_budget_s(40_000_000, 60_000_000)


def test_the_smallest_x_ray_has_a_budget_that_the_kernel_can_count() -> None:
    assert opening_budget_s(PixelCoding.JPEG, 1024, 100) == LEAST_S
    assert rendering_budget_s(1024, 1, wants_overlay=True) == LEAST_S


@pytest.mark.parametrize("codec", [one for one in PixelCoding if one is not PixelCoding.NATIVE])
def test_bytes_that_code_no_pixels_are_no_reason_for_a_larger_budget(codec: PixelCoding) -> None:
    pixels = 64 * 64
    most_coded = MOST_CODED_BYTES_PER_PIXEL * pixels
    of_a_header = opening_budget_s(PixelCoding.NATIVE, pixels, 10_000_000)
    grown_by_s = opening_budget_s(codec, pixels, 10_000_000) - opening_budget_s(
        codec, pixels, most_coded
    )
    assert 0 <= grown_by_s <= of_a_header
    if codec is not PixelCoding.JPEG_SCANS:
        assert opening_budget_s(codec, pixels, 10_000_000) <= first_grant_s(10_000_000)


def test_an_ordinary_x_ray_needs_no_more_than_the_first_grant() -> None:
    for codec in set(PixelCoding) - {PixelCoding.JPEG_2000, PixelCoding.JPEG_SCANS}:
        assert opening_budget_s(codec, 2048 * 2048, 6_000_000) <= first_grant_s(6_000_000)
    assert first_grant_s(0) == ORDINARY_OPENING_S


def test_the_largest_x_rays_are_costly_ones_whatever_their_coding() -> None:
    for coding in set(PixelCoding) - {PixelCoding.NATIVE, PixelCoding.RLE}:
        assert opening_budget_s(coding, 40_000_000, 500_000) > first_grant_s(500_000)
    assert rendering_budget_s(40_000_000, 1, wants_overlay=True) > ORDINARY_RENDERING_S
    assert rendering_budget_s(9_000_000, 1, wants_overlay=True) <= ORDINARY_RENDERING_S


def test_a_jpeg_with_more_scans_than_encoders_write_is_costly_at_any_size() -> None:
    for pixels, upload_bytes in ((1024, 2_000), (9_000_000, 40_000)):
        budget_s = opening_budget_s(PixelCoding.JPEG_SCANS, pixels, upload_bytes)
        assert budget_s > first_grant_s(upload_bytes)


def test_rendering_grows_with_masks_and_overlay() -> None:
    one = rendering_budget_s(10_000_000, 1, wants_overlay=False)
    assert rendering_budget_s(10_000_000, 32, wants_overlay=False) > 10 * one
    assert rendering_budget_s(10_000_000, 1, wants_overlay=True) > one
