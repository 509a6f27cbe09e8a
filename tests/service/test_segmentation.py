"""`POST /segment` from end to end on a fake model: answers, refusals, limits, endings."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import logging
from collections.abc import Callable, Sequence
from typing import Any

import httpx
import numpy as np
import pytest
from fake_model import (
    INPUT_SIDE,
    FakeInfo,
    FakeManifest,
    FakePredictor,
    Gate,
    form,
    make_app,
    picture,
    png,
    running,
    thresholded,
    until,
)
from fastapi import FastAPI
from PIL import Image

from service.answers.rendering import encode_rle

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


def pixels_of(data: bytes) -> np.ndarray:
    """Decodes a picture."""
    return np.asarray(Image.open(io.BytesIO(data)))


def sample(app: FastAPI, name: str, **labels: str) -> float:
    """Reads a metric; 0 when it has no such labels yet."""
    value = app.state.service.metrics.registry.get_sample_value(name, labels)
    return 0.0 if value is None else float(value)


def assert_nothing_is_held(app: FastAPI) -> None:
    """No place, no byte and no gauge is left behind."""
    service = app.state.service
    assert (service.room.waiting, service.room.inside) == (0, 0)
    assert service.room._upload_bytes == 0
    assert service.requests_running == 0
    assert sample(app, "lungseg_inflight") == 0


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
        *("latency_ms", "warnings"),
    }
    assert set(answer["model"]) == {"name", "version", "sha256", "precision", "device"}
    assert answer["image"] == {"width": 96, "height": 80}
    assert list(answer["latency_ms"]) == STAGES
    assert [mask["bbox"] for mask in answer["masks"]] == [[0, 0, 40, 40], [10.5, 10, 90, 70]]
    first = answer["masks"][0]
    assert set(first) == {"bbox", "score", "area_px", "area_fraction", "png", "rle"}
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


async def test_a_model_of_one_convention_draws_no_other() -> None:
    """An imported model was trained on one; a mask by the other would be no mask of anything."""
    info = FakeInfo(manifest=FakeManifest(("lung_field",)))
    app = make_app(FakePredictor(info=info))
    async with running(app) as client:
        refused = await client.post("/segment", **form(convention="whole_lung"))
        assert (refused.status_code, refused.json()["code"]) == (422, "invalid_field")
        assert "must be lung_field; this model draws no other" in refused.json()["detail"]
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


async def test_the_png_answer_is_the_mask_itself() -> None:
    """The same bytes as in the JSON answer, the rest in headers."""
    async with running(make_app()) as client:
        box = {"bbox": "8,8,90,70"}
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
    codes = [warning["code"] for warning in answer["warnings"]]
    assert "empty_mask" in codes
    assert "empty_mask" in as_png.headers["x-lungseg-warnings"].split(",")
    assert sample(app, "lungseg_warnings_total", code="empty_mask") == 2


REFUSED: list[tuple[str, dict[str, Any], dict[str, str], int, str]] = [
    ("zero bytes", {"files": {"image": ("a", b"")}}, {}, 400, "undecodable_image"),
    ("not an image", {"files": {"image": ("a", b"hello" * 9)}}, {}, 400, "undecodable_image"),
    ("truncated", {"files": {"image": ("a", png(picture())[:200])}}, {}, 400, "undecodable_image"),
    ("GIF", {"files": {"image": ("a", b"GIF89a" + b"0" * 50)}}, {}, 415, "unsupported_media_type"),
    ("missing", {"files": {"x": ("a", b"1")}}, {}, 422, "invalid_field"),
    ("no image", {"files": {"bbox": (None, b"0,0,9,9")}}, {}, 422, "missing_field"),
    ("unknown", form(bbx="0,0,9,9"), {}, 422, "invalid_field"),
    ("outside", form(bbox="0,0,97,80"), {}, 422, "invalid_box"),
    ("inverted", form(bbox="40,40,10,10"), {}, 422, "invalid_box"),
    ("NaN", form(bbox="nan,0,10,10"), {}, 422, "invalid_box"),
    ("infinite", form(bbox="0,0,inf,10"), {}, 422, "invalid_box"),
    ("five numbers", form(bbox="0,0,10,10,10"), {}, 422, "invalid_box"),
    ("thin", form(bbox="1,1,1.5,50"), {}, 422, "invalid_box"),
    ("convention", form(convention="both"), {}, 422, "invalid_field"),
    ("threshold", form(threshold="1.0"), {}, 422, "invalid_field"),
    ("json body", {"json": {"image": "x"}}, {}, 415, "unsupported_media_type"),
    ("two boxes as png", form(bbox=["0,0,9,9", "1,1,9,9"]), {"Accept": "image/png"}, 406,
     "not_acceptable"),
    ("png as dicom", form(), {"Accept": "application/dicom"}, 406, "not_acceptable"),
    ("as html", form(), {"Accept": "text/html"}, 406, "not_acceptable"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "headers", "status", "code"),
    [case[1:] for case in REFUSED],
    ids=[case[0] for case in REFUSED],
)
async def test_bad_input_gets_its_problem_and_the_server_goes_on(
    arguments: dict[str, Any], headers: dict[str, str], status: int, code: str
) -> None:
    """Status, code, one sentence twice, the id; then a good request is answered."""
    app = make_app()
    async with running(app) as client:
        response = await client.post("/segment", **arguments, headers=headers)
        after = await client.post("/segment", **form())
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == status
    assert problem["detail"] == problem["error"] != ""
    assert problem["request_id"] == response.headers["x-request-id"]
    assert "Traceback" not in response.text
    assert after.status_code == 200
    assert sample(app, "lungseg_rejected_total", reason=code) == 1
    assert_nothing_is_held(app)


def bomb_header(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header claims many pixels."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 1000)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


async def test_too_many_pixels_and_too_many_bytes_are_413_with_limit_and_actual() -> None:
    """Neither is decoded."""
    app = make_app(max_upload_bytes=20_000, max_pixels=1_000_000)
    async with running(app) as client:
        bomb = {"files": {"image": ("a", bomb_header(10_000, 10_000))}}
        pixels = await client.post("/segment", **bomb)
        large = await client.post("/segment", files={"image": ("a", b"x" * 30_000)})
    assert (pixels.status_code, pixels.json()["code"]) == (413, "too_many_pixels")
    assert "100000000" in pixels.json()["detail"]
    assert "1000000" in pixels.json()["detail"]
    assert (large.status_code, large.json()["code"]) == (413, "payload_too_large")
    assert "20000" in large.json()["detail"]
    assert_nothing_is_held(app)


async def test_a_query_is_refused_instead_of_ignored() -> None:
    """`?convention=whole_lung` would silently give the other mask."""
    async with running(make_app()) as client:
        response = await client.post("/segment?convention=whole_lung", **form())
    assert (response.status_code, response.json()["code"]) == (422, "invalid_field")


async def test_a_model_lost_while_the_upload_came_is_503(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ready at the door, gone when it is to be asked what it takes."""
    app = make_app()
    async with running(app) as client:
        monkeypatch.setattr(app.state.service.loader, "model", None)
        response = await client.post("/segment", **form())
        assert (response.status_code, response.json()["code"]) == (503, "compute_lost")
        assert response.headers["retry-after"] == "2"
        monkeypatch.undo()
        assert (await client.post("/segment", **form())).status_code == 200
    assert_nothing_is_held(app)


async def test_a_second_thread_draws_for_a_caller_who_is_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Beside others it would take the core that they need; the answer is the same."""
    app = make_app(image_threads=1)
    service, pieces = app.state.service, []
    both = service._side.both

    def counted(here: Callable[[], Any], there: Callable[[], Any]) -> tuple[Any, Any]:
        pieces.append(service.room.inside)
        found: tuple[Any, Any] = both(here, there)
        return found

    monkeypatch.setattr(service._side, "both", counted)
    async with running(app) as client:
        await until(lambda: bool(pieces))  # the one warm-up draws so too
        pieces.clear()
        alone = (await client.post("/segment", **form())).json()
        assert pieces == [1]
        with service.room.enter():
            beside = (await client.post("/segment", **form())).json()
        assert pieces == [1]
    assert alone["overlay_png"] == beside["overlay_png"]
    assert alone["masks"] == beside["masks"]


async def test_a_full_queue_refuses_at_once_and_recovers() -> None:
    """One is computed, two wait, the rest get 429 with a pause."""
    gate = Gate()
    app = make_app(FakePredictor(gate.hold), queue_limit=2, max_batch=1)
    async with running(app) as client:
        first = asyncio.create_task(client.post("/segment", **form()))
        await until(gate.entered.is_set)
        waiting = [asyncio.create_task(client.post("/segment", **form())) for _ in range(2)]
        await until(lambda: app.state.service.room.waiting == 2)
        assert sample(app, "lungseg_queue_depth") == 2
        refused = await client.post("/segment", **form())
        gate.opened.set()
        answers = await asyncio.gather(first, *waiting)
        again = await client.post("/segment", **form())
    assert (refused.status_code, refused.json()["code"]) == (429, "queue_full")
    assert int(refused.headers["retry-after"]) >= 1
    assert [answer.status_code for answer in (*answers, again)] == [200] * 4
    assert sample(app, "lungseg_rejected_total", reason="queue_full") == 1
    assert_nothing_is_held(app)


async def test_a_request_that_takes_too_long_is_504_and_frees_its_slot() -> None:
    """While the model is still busy with it; a waiting one is withdrawn."""
    gate = Gate()
    predictor = FakePredictor(gate.hold)
    app = make_app(predictor, queue_limit=1, request_timeout_s=0.3, max_batch=1)
    async with running(app) as client:
        both = [asyncio.create_task(client.post("/segment", **form()))]
        await until(gate.entered.is_set)
        both.append(asyncio.create_task(client.post("/segment", **form())))
        late = await asyncio.gather(*both)
        assert_nothing_is_held(app)
        gate.opened.set()
        after = await client.post("/segment", **form())
    assert [(one.status_code, one.json()["code"]) for one in late] == [
        (504, "deadline_exceeded"),
        (504, "deadline_exceeded"),
    ]
    assert after.status_code == 200
    assert predictor.batch_sizes == [1, 1]
    assert sample(app, "lungseg_request_duration_seconds_count") == 3


async def test_a_failing_model_call_is_500_with_a_fixed_sentence() -> None:
    """No word of the exception gets out; gauges come back."""

    def before(requests: Sequence[Any]) -> None:
        raise ValueError("/data/DOE^JOHN.dcm")

    app = make_app(FakePredictor(before))
    async with running(app) as client:
        response = await client.post("/segment", **form())
    assert (response.status_code, response.json()["code"]) == (500, "internal_error")
    assert "DOE" not in response.text
    assert_nothing_is_held(app)


async def test_an_unforeseen_error_outside_the_model_is_500_too(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The outermost layer answers it, and logs the place without the message."""

    def broken(*arguments: object, **options: object) -> None:
        raise KeyError("DOE^JOHN")

    monkeypatch.setattr("service.compute.request_steps.decode_image", broken)
    app = make_app()
    async with running(app) as client:
        with caplog.at_level(logging.INFO):
            response = await client.post("/segment", **form())
    assert (response.status_code, response.json()["code"]) == (500, "internal_error")
    assert response.json()["request_id"] == response.headers["x-request-id"]
    assert "DOE" not in response.text + caplog.text
    assert sample(app, "lungseg_requests_total", route="/segment", code="500") == 1
    assert_nothing_is_held(app)


async def send_and_leave(app: FastAPI, gate: asyncio.Event) -> list[dict[str, Any]]:
    """Sends a whole request by hand and closes the connection when `gate` is set."""
    built = httpx.Request("POST", "http://test/segment", **form())
    body = built.read()
    sent: list[dict[str, Any]] = []
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> dict[str, Any]:
        for message in messages:
            return message
        await gate.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": "/segment", "raw_path": b"/segment",
        "query_string": b"", "http_version": "1.1", "scheme": "http", "root_path": "",
        "headers": [(name.lower(), value) for name, value in built.headers.raw],
        "server": ("test", 80), "client": ("127.0.0.1", 1), "asgi": {"version": "3.0"},
    }  # fmt: skip
    await app(scope, receive, send)
    return sent


async def test_a_caller_who_leaves_is_dropped_and_counted() -> None:
    """While waiting: the model never sees the image."""
    gate = Gate()
    predictor = FakePredictor(gate.hold)
    app = make_app(predictor, max_batch=1)
    async with running(app) as client:
        first = asyncio.create_task(client.post("/segment", **form()))
        await until(gate.entered.is_set)
        leave = asyncio.Event()
        left = asyncio.create_task(send_and_leave(app, leave))
        await until(lambda: app.state.service.room.waiting == 1)
        leave.set()
        assert await left == []
        assert app.state.service.room.waiting == 0
        gate.opened.set()
        assert (await first).status_code == 200
    assert predictor.batch_sizes == [1]
    assert sample(app, "lungseg_cancelled_total") == 1
    assert sample(app, "lungseg_requests_total", route="/segment", code="499") == 1
    assert_nothing_is_held(app)


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


async def test_nothing_that_names_a_patient_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """File name, query, box, unknown field, accept header: canaries that must not appear."""
    app = make_app()
    async with running(app) as client:
        with caplog.at_level(logging.DEBUG, logger="service"):
            trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
            named = form(name="CANARY_DOE.png", bbox="11.0625,12.0625,71.0625,72.0625")
            await client.post("/segment", **named, headers={"traceparent": trace})
            await client.post("/segment?CANARY=1", **form())
            await client.post("/segment", **form(CANARY="CANARY"))
            await client.get("/CANARY")
            await client.post("/segment", **form(), headers={"Accept": "CANARY/CANARY"})
    fields = [getattr(record, "fields", {}) for record in caplog.records]
    text = caplog.text + json.dumps(fields, default=str)
    assert "CANARY" not in text
    assert ".0625" not in text
    lines = [f for r, f in zip(caplog.records, fields, strict=True) if r.name == "service.requests"]
    assert [line["status"] for line in lines] == [200, 422, 422, 404, 406]
    assert lines[0]["trace_id"] == "0af7651916cd43dd8448eb211c80319c"
    assert lines[0]["route"] == "/segment"
    assert (lines[0]["width"], lines[0]["height"], lines[0]["boxes"]) == (96, 80, 1)
    assert set(lines[0]["stages_ms"]) == set(STAGES) - {"total"}
    assert lines[3]["route"] == "unmatched"
