"""How a request to `POST /segment` may end without an answer: lost, full, late, broken, left."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from service.http import segment_endpoint
from tests.service.fake_model import (
    FakePredictor,
    Gate,
    assert_nothing_is_held,
    form,
    make_app,
    running,
    sample,
    until,
)

pytestmark = pytest.mark.anyio


async def test_a_model_lost_while_the_upload_came_is_503(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ready at the door, gone when it is to be asked what it takes."""
    app = make_app()
    async with running(app) as client:
        monkeypatch.setattr(app.state.service.host.devices[0].loader, "model", None)
        response = await client.post("/segment", **form())
        assert (response.status_code, response.json()["code"]) == (503, "compute_lost")
        assert response.headers["retry-after"] == "2"
        monkeypatch.undo()
        assert (await client.post("/segment", **form())).status_code == 200
    assert_nothing_is_held(app)


async def test_a_full_queue_refuses_at_once_and_recovers() -> None:
    """One is computed, two wait, the rest get 429 with a pause."""
    gate = Gate()
    app = make_app(FakePredictor(gate.hold), queue_limit=2, max_batch=1)
    async with running(app) as client:
        first = asyncio.create_task(client.post("/segment", **form()))
        await until(gate.entered.is_set)
        waiting = [asyncio.create_task(client.post("/segment", **form())) for _ in range(2)]
        await until(lambda: app.state.service.admission.waiting == 2)
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


async def test_a_request_that_takes_too_long_is_504_and_frees_its_slot(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While the model is still busy with it; a waiting one is withdrawn."""
    deadlines: list[asyncio.Timeout] = []

    def noted(timeout_s: float) -> asyncio.Timeout:
        deadlines.append(asyncio.timeout(timeout_s))
        return deadlines[-1]

    monkeypatch.setattr(segment_endpoint, "deadline", noted)
    gate = Gate()
    predictor = FakePredictor(gate.hold)
    app = make_app(predictor, queue_limit=1, request_timeout_s=600, max_batch=1)
    async with running(app) as client:
        both = [asyncio.create_task(client.post("/segment", **form()))]
        await until(gate.entered.is_set)
        both.append(asyncio.create_task(client.post("/segment", **form())))
        await until(lambda: app.state.service.admission.waiting == 1)
        for one in deadlines:
            one.reschedule(asyncio.get_running_loop().time())
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

    app = make_app()
    async with running(app) as client:
        monkeypatch.setattr("service.imaging.opening.read_upload", broken)
        with caplog.at_level(logging.INFO):
            response = await client.post("/segment", **form())
    assert (response.status_code, response.json()["code"]) == (500, "internal_error")
    assert response.json()["request_id"] == response.headers["x-request-id"]
    assert "DOE" not in response.text + caplog.text
    assert sample(app, "lungseg_requests_total", route="/segment", code="500") == 1
    assert_nothing_is_held(app)


async def send_and_leave(app: FastAPI, gate: asyncio.Event) -> list[dict[str, Any]]:
    """Sends a whole request by hand and closes the connection when `gate` is set."""
    built = httpx.Request("POST", "http://localhost/segment", **form())
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
        await until(lambda: app.state.service.admission.waiting == 1)
        leave.set()
        assert await left == []
        assert app.state.service.admission.waiting == 0
        gate.opened.set()
        assert (await first).status_code == 200
    assert predictor.batch_sizes == [1]
    assert sample(app, "lungseg_cancelled_total") == 1
    assert sample(app, "lungseg_requests_total", route="/segment", code="499") == 1
    assert_nothing_is_held(app)
