"""What a person looks at: each view shows what its name says, and keeps what it promises."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from service.imaging.rendering import MASK_COLOURS, WARNING_COLOUR, window_for_display
from service.imaging.segment_request import View
from service.imaging.views import (
    NOT_FOR_MEASURING,
    ViewedMasks,
    encode_view,
    legend_of,
    view_of,
    with_margin,
)
from service.imaging.warning_advice import Severity
from tests.service.fake_model import form, make_app, running
from tests.service.lung_masks import lung_mask, xray_of

SIDE = 400


def shown(severity: Severity | None = None, bits: int = 8) -> ViewedMasks:
    mask = lung_mask(SIDE)
    pixels: NDArray[np.generic] = xray_of(mask)
    if bits == 16:
        pixels = pixels.astype(np.uint16) * 257
    return ViewedMasks(pixels, [mask], (), severity)


def luma(picture: NDArray[Any]) -> NDArray[np.float64]:
    return picture @ np.array([0.299, 0.587, 0.114])


def count(picture: NDArray[Any], colour: tuple[int, int, int]) -> int:
    return int(np.count_nonzero((picture == colour).all(axis=-1)))


def test_the_tint_keeps_luma() -> None:
    """By Rec. 601, to one grey level, at every grey value; the outline is not judged."""
    levels = np.repeat(np.arange(256, dtype=np.uint8), 2)[None].repeat(200, axis=0)
    mask = np.ones(levels.shape, bool)
    mask[:20] = mask[-20:] = mask[:, :2] = mask[:, -2:] = False
    picture = view_of(View.OVERLAY, ViewedMasks(levels, [mask]))
    inside = (slice(60, 140), slice(20, -20))
    assert np.abs(luma(picture)[inside] - levels[inside]).max() <= 1.0
    assert (picture[inside] != levels[inside][..., None]).any()


def test_an_outline_leaves_every_other_pixel_as_it_is() -> None:
    one = shown()
    picture = view_of(View.OUTLINE, one)
    changed = (picture != one.pixels[..., None]).any(axis=-1)
    assert 0 < np.count_nonzero(changed) < 0.05 * changed.size
    assert not changed[~one.masks[0]].any()


@pytest.mark.parametrize("side", [96, 400, 2048])
def test_the_outline_is_crisp_at_any_size(side: int) -> None:
    """Outside the mask nothing is drawn, and on its outermost pixels the colour is full."""
    mask = lung_mask(side)
    picture = view_of(View.OUTLINE, ViewedMasks(xray_of(mask), [mask]))
    inner = mask[1:-1, 1:-1]
    all_around = mask[:-2, 1:-1] & mask[2:, 1:-1] & mask[1:-1, :-2] & mask[1:-1, 2:]
    edge = np.pad(inner & ~all_around, 1)
    full = (picture[edge] == MASK_COLOURS[0]).all(axis=-1)
    assert full.mean() > 0.75  # at convex corners a thin line is not quite opaque
    assert np.array_equal(picture[~mask], np.repeat(xray_of(mask)[~mask][:, None], 3, axis=1))


def test_warned_masks_look_different_from_good_ones() -> None:
    good, look, refuse = (
        view_of(View.OVERLAY, shown(severity))
        for severity in (None, Severity.LOOK, Severity.REFUSE)
    )
    plain = count(good, MASK_COLOURS[0])
    assert 0.3 * plain < count(look, MASK_COLOURS[0]) < 0.7 * plain
    assert count(refuse, MASK_COLOURS[0]) == 0
    assert 0.3 * plain < count(refuse, WARNING_COLOUR) < 0.7 * plain
    assert np.array_equal(good, view_of(View.OVERLAY, shown(Severity.INFO)))


@pytest.mark.parametrize("bits", [8, 16])
def test_isolated_lungs_keep_their_values_on_black(bits: int) -> None:
    one = shown(bits=bits)
    with Image.open(io.BytesIO(encode_view(view_of(View.ISOLATED, one)))) as image:
        picture = np.asarray(image)
    assert picture.dtype.itemsize * 8 == bits or picture.max() > 255
    assert np.array_equal(picture[one.masks[0]], one.pixels[one.masks[0]])
    assert not picture[~one.masks[0]].any()


@pytest.mark.parametrize("bits", [8, 16])
def test_enhanced_lungs_have_more_contrast_and_nothing_else_changes(bits: int) -> None:
    one = shown(bits=bits)
    picture, before = view_of(View.ENHANCED, one), window_for_display(one.pixels)
    mask = one.masks[0]
    assert picture[mask].std() > 1.2 * before[mask].std()
    assert np.array_equal(picture[~mask], before[~mask])


def test_the_legend_says_what_is_shown() -> None:
    warnings = [("turned", "refuse"), ("low_score", "look"), ("colour_to_grey", "info")]
    lines = legend_of(View.ENHANCED, "lung_field", [0.987], warnings)
    assert "lung_field" in lines[0] and "0.99" in lines[0]
    assert lines[1:] == ["refuse: turned", "look: low_score", NOT_FOR_MEASURING]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_margin_hides_nothing(dtype: type[np.uint8 | np.uint16]) -> None:
    grey: NDArray[Any] = np.random.default_rng(0).integers(0, 255, (200, 300)).astype(dtype)
    framed = with_margin(grey, ["a line"])
    assert framed.dtype == dtype
    assert np.array_equal(framed[:200], grey)
    assert 200 <= framed[200:].max() <= 255


def test_the_text_below_16_bits_is_as_bright_as_the_picture() -> None:
    """Viewers stretch the range of what they show: 12 bits below a white of 65535 are black."""
    picture = np.full((64, 200), 4000, np.uint16)
    framed = with_margin(picture, ["a line"])
    assert framed.dtype == np.uint16
    assert np.array_equal(framed[:64], picture)
    assert 3600 <= framed[64:].max() <= 4000
    assert with_margin(np.zeros_like(picture), ["a line"])[64:].max() >= 200


@pytest.mark.anyio
async def test_a_view_is_a_file_by_one_request() -> None:
    pixels = np.where(lung_mask(96), 255, 0).astype(np.uint8)
    accept = {"Accept": "image/png"}
    async with running(make_app()) as client:
        sent = form(pixels, view="isolated", lungs="each")
        picture = await client.post("/segment", **sent, headers=accept)
        answer = (await client.post("/segment", **sent)).json()
        enhanced = await client.post("/segment", **form(pixels, view="enhanced"), headers=accept)
        plain = (await client.post("/segment", **form(pixels))).json()
        wrong = await client.post("/segment", **form(pixels, view="x-ray"))
    assert picture.headers["content-type"] == "image/png"
    assert picture.headers["x-lungseg-view"] == "isolated"
    assert picture.content == base64.b64decode(answer["view_png"])
    with Image.open(io.BytesIO(picture.content)) as image:
        assert np.array_equal(np.asarray(image), pixels)
    with Image.open(io.BytesIO(enhanced.content)) as image:
        assert image.size[0] == 96 and image.size[1] > 96  # the margin says what it is not for
    assert plain["view_png"] is None
    assert wrong.status_code == 422
