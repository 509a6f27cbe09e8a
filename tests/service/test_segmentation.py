"""Answers of `POST /segment` from end to end on a fake model."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from service.imaging import answering, opening
from service.imaging.rendering import encode_rle
from service.imaging.side_threads import SideThreads, in_turn
from tests.service.fake_model import (
    INPUT_SIDE,
    FakeInfo,
    FakeManifest,
    FakePredictor,
    assert_nothing_is_held,
    form,
    make_app,
    picture,
    pixels_of,
    running,
    sample,
    thresholded,
)

pytestmark = pytest.mark.anyio
STAGES = [
    "decode",
    "preprocess",
    "queue",
    "encode_image",
    "decode_mask",
    "postprocess",
    "render",
    "total",
]


async def test_the_json_answer_has_every_member_of_the_contract() -> None:
    """And the masks are those of the boxes, in their order."""
    app = make_app()
    pixels = picture(3)
    async with running(app) as client:
        boxes = ["0,0,40,40", "10.5,10,90,70"]
        response = await client.post("/segment", **form(pixels, bbox=boxes))
    answer = response.json()
    assert response.status_code == 200
    assert set(answer) == {
        *("request_id", "model", "image", "convention", "threshold", "masks", "overlay_png"),
        *("latency_ms", "warnings", "measurements", "view_png", "overlay_jpeg"),
    }
    members = {"name", "version", "sha256", "precision", "weight_bits", "device"}
    assert set(answer["model"]) == members and answer["model"]["weight_bits"] == 8
    assert answer["image"] == {"width": 96, "height": 80}
    assert list(answer["latency_ms"]) == STAGES
    assert [mask["bbox"] for mask in answer["masks"]] == [[0, 0, 40, 40], [10.5, 10, 90, 70]]
    first = answer["masks"][0]
    assert set(first) == {
        *("bbox", "score", "confidence", "area_px", "area_fraction", "png", "rle"),
        *("structure", "side", "box_index", "polygon", "band", "probability_png"),
    }
    for mask, box in zip(answer["masks"], ((0, 0, 40, 40), (10, 10, 90, 70)), strict=True):
        x0, y0, x1, y1 = box
        inside = (slice(y0, y1), slice(x0, x1))
        expected = np.zeros((80, 96), np.uint8)
        expected[inside] = thresholded(pixels)[inside] * 255
        assert np.array_equal(pixels_of(base64.b64decode(mask["png"])), expected)
        assert mask["area_px"] == np.count_nonzero(expected)
        assert mask["rle"] == encode_rle(expected > 0)
    expected = np.zeros((80, 96), np.uint8)
    expected[:40, :40] = thresholded(pixels)[:40, :40] * 255
    assert first["area_px"] == np.count_nonzero(expected)
    assert first["area_fraction"] == pytest.approx(first["area_px"] / pixels.size)
    assert first["rle"]["size"] == [80, 96]
    assert pixels_of(base64.b64decode(answer["overlay_png"])).shape == (80, 96, 3)
    assert_nothing_is_held(app)


async def test_a_model_of_one_convention_predicts_no_other() -> None:
    """An imported model was trained on one; a mask by the other would be no mask of anything."""
    info = FakeInfo(manifest=FakeManifest(("lung_field",)))
    app = make_app(FakePredictor(info=info))
    async with running(app) as client:
        refused = await client.post("/segment", **form(convention="whole_lung"))
        assert (refused.status_code, refused.json()["code"]) == (422, "invalid_field")
        assert "must be lung_field; this model knows no other" in refused.json()["detail"]
        assert (await client.post("/segment", **form())).status_code == 200
        assert (await client.get("/v1/model")).json()["conventions"] == ["lung_field"]
    assert_nothing_is_held(app)


async def test_headers_of_an_answer() -> None:
    """Identity, timing, and no caching."""
    async with running(make_app()) as client:
        response = await client.post("/v1/segment", **form(), headers={"X-Request-ID": "abc-1"})
        odd = await client.post("/segment", **form(), headers={"X-Request-ID": "a b"})
    assert response.headers["x-request-id"] == response.json()["request_id"] == "abc-1"
    assert response.headers["cache-control"] == "no-store"
    assert "encode_image;dur=2.0" in response.headers["server-timing"]
    assert odd.headers["x-request-id"] not in ("", "a b")


async def test_no_box_means_the_whole_image_and_no_overlay_means_null() -> None:
    """Defaults and options."""
    async with running(make_app()) as client:
        answer = (await client.post("/segment", **form(overlay="false"))).json()
    assert answer["masks"][0]["bbox"] == [0, 0, 96, 80]
    assert answer["overlay_png"] is None


async def test_the_overlay_as_jpeg_shows_the_same_and_takes_the_place_of_the_png() -> None:
    pixels = np.add.outer(np.arange(160), np.arange(192)).astype(np.uint8)
    async with running(make_app()) as client:
        asked = {"bbox": "20,30,150,140"}
        as_png = (await client.post("/segment", **form(pixels, **asked))).json()
        as_jpeg = (await client.post("/segment", **form(pixels, overlay="jpeg", **asked))).json()
        mask = await client.post(
            "/segment", **form(overlay="jpeg"), headers={"Accept": "image/png"}
        )
    assert as_png["overlay_jpeg"] is None and as_jpeg["overlay_png"] is None
    assert as_png["masks"] == as_jpeg["masks"]
    file = base64.b64decode(as_jpeg["overlay_jpeg"])
    assert file.startswith(b"\xff\xd8\xff") and mask.status_code == 200
    exact = pixels_of(base64.b64decode(as_png["overlay_png"])).astype(int)
    assert abs(pixels_of(file).astype(int) - exact).mean() < 3


async def test_a_jpeg_overlay_of_sides_that_no_jpeg_has_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before the network has worked; the same X-ray has its PNG."""
    monkeypatch.setattr(opening, "LONGEST_SIDE_PX", 90)
    async with running(make_app()) as client:
        refused = await client.post("/segment", **form(overlay="jpeg"))
        answered = await client.post("/segment", **form())
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_field")
    assert "overlay=true" in refused.json()["detail"]
    assert answered.status_code == 200


async def test_the_png_answer_is_the_mask_itself() -> None:
    """The same bytes as in the JSON answer, the rest in headers."""
    async with running(make_app()) as client:
        box: dict[str, Any] = {"bbox": "8,8,90,70"}
        both = [
            await client.post("/segment", **form(**box), headers={"Accept": accept})
            for accept in ("image/png", "application/json")
        ]
    mask = both[1].json()["masks"][0]
    assert both[0].headers["content-type"] == "image/png"
    assert both[0].content == base64.b64decode(mask["png"])
    assert both[0].headers["x-lungseg-bbox"] == "8,8,90,70"
    assert int(both[0].headers["x-lungseg-area-px"]) == mask["area_px"]
    assert float(both[0].headers["x-lungseg-score"]) == mask["score"]
    assert both[0].headers["x-lungseg-model"] == "fake/1"
    assert both[0].headers["vary"] == "Accept"


async def test_warnings_come_with_a_code_and_are_counted() -> None:
    """An empty mask is never given silently."""
    app = make_app()
    black = np.zeros((64, 64), np.uint8)
    async with running(app) as client:
        answer = (await client.post("/segment", **form(black))).json()
        as_png = await client.post("/segment", **form(black), headers={"Accept": "image/png"})
    (warning,) = [one for one in answer["warnings"] if one["code"] == "empty_mask"]
    assert warning["severity"] == "refuse"
    assert warning["action"].startswith("Do not use")
    assert answer["masks"][0]["score"] == answer["masks"][0]["confidence"] == 0.0
    assert float(as_png.headers["x-lungseg-score"]) == 0.0
    assert float(as_png.headers["x-lungseg-confidence"]) == 0.0
    assert "empty_mask" in as_png.headers["x-lungseg-warnings"].split(",")
    assert sample(app, "lungseg_warnings_total", code="empty_mask") == 2


async def test_a_mask_that_the_model_guesses_is_said_to_be_undecided() -> None:
    """Grey values are the fake model's probabilities: near one half here, near 0 and 1 there."""
    app = make_app()
    clear, guessed = np.empty((2, 80, 96), np.uint8)
    for pixels, outside, inside in ((clear, 0, 255), (guessed, 110, 140)):
        pixels[:] = outside
        pixels[20:60, 20:70] = inside
        pixels[:4], pixels[4:8] = 0, 255  # not in the box: the window to 8 bits leaves the rest
    async with running(app) as client:
        answers = [
            (await client.post("/segment", **form(pixels, bbox="10,10,80,70"))).json()
            for pixels in (clear, guessed)
        ]
    codes = [[warning["code"] for warning in answer["warnings"]] for answer in answers]
    assert ["undecided_mask" in found for found in codes] == [False, True]
    assert answers[0]["masks"][0]["area_px"] == answers[1]["masks"][0]["area_px"] == 40 * 50
    assert sample(app, "lungseg_warnings_total", code="undecided_mask") == 1


@pytest.mark.parametrize(
    ("overlay", "kept_px", "beside"), [("true", 10**6, 1), ("true", 0, 0), ("false", 10**6, 0)]
)
async def test_masks_are_described_beside_the_drawing_where_they_are_small(
    monkeypatch: pytest.MonkeyPatch, overlay: str, kept_px: int, beside: int
) -> None:
    class Both(SideThreads):
        pieces = 0

        def both(self, here: Callable[[], Any], there: Callable[[], Any]) -> tuple[Any, Any]:
            Both.pieces += 1
            return in_turn(here, there)

    monkeypatch.setattr(answering, "side_threads", Both)
    monkeypatch.setattr(answering, "KEPT_WHOLE_PX", kept_px)
    async with running(make_app()) as client:
        answer = (await client.post("/segment", **form(overlay=overlay))).json()
    assert Both.pieces == beside
    assert (answer["overlay_png"] is not None) == (overlay == "true")
    assert len(answer["masks"]) == 1


async def test_many_callers_get_their_own_masks() -> None:
    """Forty different images at a time, in batches; none gets its neighbour's."""
    app = make_app(max_batch=4)
    async with running(app) as client:
        sent = [picture(seed, (INPUT_SIDE, 50 + seed)) for seed in range(40)]
        answers = await asyncio.gather(
            *(client.post("/segment", **form(one), headers={"Accept": "image/png"}) for one in sent)
        )
    for pixels, answer in zip(sent, answers, strict=True):
        assert np.array_equal(pixels_of(answer.content) == 255, thresholded(pixels))
    assert sample(app, "lungseg_batch_size_sum") == 40
    assert_nothing_is_held(app)
