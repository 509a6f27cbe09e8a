"""Masks as polygons, with a band around their border, and as probabilities."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from model_store.geometry import InputGeometry
from model_store.mask_resampling import logits_above, logits_at_pixels
from model_store.postprocessing import MaskLogits
from service.imaging.polygons import TOLERANCE_PX, Polygon, polygons_of, rings_of
from service.imaging.uncertainty import Probabilities
from tests.dicom_files import as_file, make_xray
from tests.service.fake_model import form, make_app, running
from tests.service.lung_masks import lung_mask


def filled(polygons: list[Polygon], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Fill rings by the even-odd rule, at the centres of pixels."""
    centres_y, centres_x = (np.indices(shape) + 0.5).astype(float)
    inside = np.zeros(shape, bool)
    for ring in (ring for polygon in polygons for ring in polygon):
        for (x0, y0), (x1, y1) in zip(ring, [*ring[1:], ring[0]], strict=True):
            if y0 == y1:
                continue
            between = (centres_y > min(y0, y1)) & (centres_y < max(y0, y1))
            crossing = x0 + (centres_y - y0) * (x1 - x0) / (y1 - y0)
            inside ^= between & (crossing < centres_x)
    return inside


@pytest.mark.parametrize("seed", range(6))
def test_rings_with_all_their_corners_enclose_exactly_the_mask(seed: int) -> None:
    """Noise has every pattern: pixels that touch at a corner, holes in islands in holes."""
    mask = np.random.default_rng(seed).random((23, 31)) < (seed + 1) / 7
    polygons = polygons_of(mask, tolerance_px=0)
    assert np.array_equal(filled(polygons, (23, 31)), mask)


def test_a_polygon_is_its_outer_ring_and_then_its_holes() -> None:
    mask = np.zeros((20, 20), bool)
    mask[2:12, 3:15] = True
    mask[5:8, 6:9] = False
    mask[6, 7] = True  # an island in the hole
    mask[15:17, 1:3] = True
    polygons = polygons_of(mask)
    assert [len(polygon) for polygon in polygons] == [2, 1, 1]
    assert sorted(polygons[0][0]) == [(3, 2), (3, 12), (15, 2), (15, 12)]
    assert sorted(polygons[0][1]) == [(6, 5), (6, 8), (9, 5), (9, 8)]
    assert sorted(polygons[1][0]) == [(1, 15), (1, 17), (3, 15), (3, 17)]
    assert polygons_of(np.zeros((4, 4), bool)) == []


def test_pixels_that_touch_at_a_corner_are_rings_of_their_own() -> None:
    assert len(rings_of(np.eye(3, dtype=bool))) == 3


def test_simplification_moves_no_point_farther_than_it_says() -> None:
    mask = lung_mask(512)
    exact, simple = polygons_of(mask, tolerance_px=0), polygons_of(mask)
    assert len(simple) == len(exact) == 2
    assert sum(len(p[0]) for p in simple) < 0.2 * sum(len(p[0]) for p in exact)
    corners = np.array([point for polygon in exact for point in polygon[0]], float)
    nearest = np.full(len(corners), np.inf)
    for polygon in simple:
        ring = np.array(polygon[0], float)
        for a, b in zip(ring, np.roll(ring, -1, axis=0), strict=True):
            along = np.clip(((corners - a) @ (b - a)) / ((b - a) @ (b - a)), 0, 1)
            nearest = np.minimum(
                nearest, np.linalg.norm(corners - (a + along[:, None] * (b - a)), axis=1)
            )
    assert nearest.max() <= TOLERANCE_PX + 1e-9
    overlap = filled(simple, (512, 512))
    assert 2 * (overlap & mask).sum() / (overlap.sum() + mask.sum()) > 0.997


def ramp(side: int = 64) -> MaskLogits:
    """Logits that fall by 1 for each 4 cells to the right, 0 in the middle."""
    logits = np.tile((side / 2 - np.arange(side) - 0.5) / 4, (side, 1)).astype(np.float32)
    return MaskLogits((0.0, 0.0, 64.0, 64.0), logits, 0.9)


def test_the_band_is_as_wide_as_the_contours_are_apart() -> None:
    geometry = InputGeometry(64, 64, 64)
    mask = logits_above(ramp().logits, geometry, 0.0)
    band = Probabilities(ramp(), geometry).band(mask)
    log3 = float(np.log(3))  # the logit of 0.75
    assert band.mean_px is not None
    assert abs(int(band.outer[32].sum()) - (32 + 4 * log3)) <= 1
    assert abs(int(band.inner[32].sum()) - (32 - 4 * log3)) <= 1
    right_side = mask.copy()
    right_side[:, :20] = True
    apart = int(band.outer[32].sum()) - int(band.inner[32].sum())
    assert Probabilities(ramp(), geometry).band(mask).p95_px == pytest.approx(apart, abs=1)


def test_a_mask_without_a_sure_part_has_no_width() -> None:
    flat = MaskLogits((0.0, 0.0, 64.0, 64.0), np.full((64, 64), 0.1, np.float32), 0.9)
    band = Probabilities(flat, InputGeometry(64, 64, 64)).band(np.ones((64, 64), bool))
    assert band.mean_px is None and band.p95_px is None and not band.inner.any()


def test_logits_at_pixels_are_those_that_masks_are_cut_from() -> None:
    logits = np.random.default_rng(0).normal(0, 3, (24, 24)).astype(np.float32)
    geometry = InputGeometry(1300, 700, 96)
    pixels = logits_at_pixels(logits, geometry)
    assert pixels.shape == (700, 1300)
    assert (logits_above(logits, geometry, 0.7) == (pixels > 0.7)).mean() > 0.999999
    with pytest.raises(ValueError, match="not numbers"):
        logits_at_pixels(np.full((4, 4), np.nan, np.float32), geometry)


async def answer_to(pixels: NDArray[np.uint8], **fields: Any) -> dict[str, Any]:
    async with running(make_app()) as client:
        found: dict[str, Any] = (await client.post("/segment", **form(pixels, **fields))).json()
    return found


@pytest.mark.anyio
async def test_a_plain_answer_holds_png_and_run_lengths_alone() -> None:
    (mask,) = (await answer_to(lung_mask(96).astype(np.uint8) * 255))["masks"]
    assert mask["png"] and mask["rle"]
    assert mask["polygon"] is mask["band"] is mask["probability_png"] is None


@pytest.mark.anyio
async def test_every_shape_on_request() -> None:
    pixels = np.where(lung_mask(96), 200, 20).astype(np.uint8)
    wanted = "polygon, band,probability"
    boxes = ["0,0,96,96", "0,0,48,96"]
    first, second = (await answer_to(pixels, shapes=wanted, bbox=boxes))["masks"]
    assert first["png"] is first["rle"] is None
    polygons = [[[tuple(point) for point in ring] for ring in one] for one in first["polygon"]]
    assert (filled(polygons, (96, 96)) == lung_mask(96)).mean() > 0.98
    assert first["band"]["mean_px"] < 2
    for mask, columns in ((first, 96), (second, 48)):
        with Image.open(io.BytesIO(base64.b64decode(mask["probability_png"]))) as file:
            probability = np.asarray(file)
        window_top = pixels.max()
        assert probability.shape == (96, 96) and probability.dtype == np.uint8
        assert probability[:, columns:].max(initial=0) == 0
        assert abs(int(probability.max()) - 255) <= 2 and window_top == 200


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"shapes": "svg"}, "shapes"),
        ({"shapes": "png,png"}, "each once"),
        ({"shapes": "band", "lungs": "each"}, "whole masks"),
        ({"shapes": "probability", "islands": "drop"}, "whole masks"),
        ({"shapes": "probability", "clip": "true"}, "whole masks"),
    ],
)
async def test_shapes_that_cannot_be_had_are_refused(fields: dict[str, Any], word: str) -> None:
    answer = await answer_to(np.zeros((96, 96), np.uint8), **fields)
    assert answer["status"] == 422 and word in answer["detail"]


@pytest.mark.anyio
async def test_shapes_lie_in_the_pixels_as_a_turned_dicom_stores_them() -> None:
    upright = np.where(lung_mask(96), 255, 0).astype(np.uint16) * 16
    stored = np.ascontiguousarray(np.rot90(upright, 2))[:, :]
    data = as_file(make_xray(stored, PatientOrientation=["R", "H"]))
    async with running(make_app()) as client:
        answer = await client.post(
            "/segment",
            files={"image": ("x.dcm", data, "application/dicom")},
            data={"shapes": "polygon,band,probability,png"},
        )
    (mask,) = answer.json()["masks"]
    with Image.open(io.BytesIO(base64.b64decode(mask["probability_png"]))) as file:
        probability = np.asarray(file)
    assert ((probability > 127) == (stored > 0)).mean() > 0.99
    for polygons in (mask["polygon"], mask["band"]["outer"], mask["band"]["inner"]):
        rings = [[[tuple(point) for point in ring] for ring in one] for one in polygons]
        assert (filled(rings, stored.shape) == (stored > 0)).mean() > 0.97
