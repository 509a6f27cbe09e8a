"""Liveness, readiness in each state, the model's card, metrics, and the router's own errors."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from model_store.self_test_result import SelfTestResult
from service.app import create_app
from service.settings import Settings
from tests.service.fake_model import (
    FAILED,
    PASSED,
    FakePredictor,
    form,
    make_app,
    running,
    until,
)
from tests.service.in_process_pool import in_process_pool

pytestmark = pytest.mark.anyio


async def test_liveness_and_readiness_and_their_aliases() -> None:
    """GET and HEAD."""
    async with running(make_app()) as client:
        for path in ("/livez", "/health"):
            assert (await client.get(path)).json() == {"status": "alive"}
        for path in ("/readyz", "/healthz"):
            answer = (await client.get(path)).json()
            assert (answer["status"], answer["device"], answer["agreement"]) == ("ready", "cpu", 1)
            assert answer["engine"] == "fake" and answer["threads"] >= 1
            assert answer["model"]["name"] == "fake"
            assert answer["self_test"]["passed"] is True
            assert (await client.head(path)).status_code == 200


async def test_while_the_model_loads_the_process_answers_that_it_is_not_ready() -> None:
    """Alive at once; 503 with a pause until the self test has passed."""
    opened = threading.Event()

    def slow_factory(settings: Settings) -> Any:
        assert opened.wait(10)
        return FakePredictor()

    app = create_app(Settings(), pool_factory=in_process_pool, predictor_factory=slow_factory)
    async with running(app, wait=False) as client:
        assert (await client.get("/livez")).status_code == 200
        for response in (
            await client.get("/readyz"),
            await client.get("/v1/model"),
            await client.post("/segment", **form()),
        ):
            assert (response.status_code, response.json()["code"]) == (503, "not_ready")
            assert int(response.headers["retry-after"]) >= 1
        assert "lungseg_ready 0.0" in (await client.get("/metrics")).text
        opened.set()
        await until(lambda: app.state.service.readiness.state.value == "ready")
        assert (await client.get("/readyz")).status_code == 200
        assert (await client.post("/segment", **form())).status_code == 200
        assert "lungseg_ready 1.0" in (await client.get("/metrics")).text


def raising() -> SelfTestResult:
    """A self test that breaks."""
    raise RuntimeError("/secret/path")


@pytest.mark.parametrize("self_test", [lambda: FAILED, raising])
async def test_a_failed_self_test_means_never_ready(self_test: Any) -> None:
    """Alive, but no mask is given, and the sentence says why."""
    app = make_app(FakePredictor(test=self_test))
    async with running(app) as client:
        assert (await client.get("/livez")).status_code == 200
        for response in (await client.get("/readyz"), await client.post("/segment", **form())):
            assert response.status_code == 503
            assert "self test" in response.json()["detail"]
            assert "secret" not in response.text
            assert "retry-after" in response.headers


async def test_a_refused_model_is_told_to_the_process() -> None:
    """`__main__` ends with it; callers read only that there is none."""
    refusals: list[Exception] = []

    def factory(settings: Settings) -> Any:
        raise ValueError("/secret/manifest.json: hash differs")

    app = create_app(
        Settings(),
        pool_factory=in_process_pool,
        predictor_factory=factory,
        on_refused=refusals.append,
    )
    async with running(app) as client:
        await until(lambda: bool(refusals))
        response = await client.get("/readyz")
    assert response.status_code == 503
    assert "secret" not in response.text
    assert "hash differs" in str(refusals[0])


async def test_failures_in_a_row_repeat_the_self_test_and_close_the_service() -> None:
    """A device that was lost after the start must not keep the service ready."""
    outcomes = iter([PASSED, FAILED])

    def before(requests: Any) -> None:
        raise RuntimeError

    app = create_app(
        Settings(),
        pool_factory=in_process_pool,
        predictor_factory=lambda _: FakePredictor(before, test=lambda: next(outcomes)),
    )
    async with running(app) as client:
        statuses = [(await client.post("/segment", **form())).status_code for _ in range(3)]
        await until(lambda: app.state.service.readiness.state.value == "recovering")
        assert (await client.post("/segment", **form())).status_code == 503
        assert (await client.get("/readyz")).status_code == 503
    assert statuses == [500, 500, 500]


async def test_draining_refuses_new_work() -> None:
    """Readiness goes first."""
    app = make_app()
    async with running(app) as client:
        app.state.service.readiness.mark_draining()
        for response in (await client.get("/readyz"), await client.post("/segment", **form())):
            assert (response.status_code, response.json()["code"]) == (503, "draining")
        assert (await client.get("/livez")).status_code == 200


async def test_the_card_shows_model_manifest_and_limits() -> None:
    """What a caller needs before sending anything."""
    async with running(make_app(max_pixels=123_456)) as client:
        card = (await client.get("/v1/model")).json()
    assert card["limits"]["max_pixels"] == 123_456
    assert card["conventions"] == ["lung_field", "whole_lung"]
    assert card["manifest"]["intended_use"] == "tests"
    assert card["model"]["sha256"] == "0" * 64


async def test_the_router_answers_with_problems_too() -> None:
    """404, and 405 with every allowed method."""
    async with running(make_app()) as client:
        missing = await client.get("/nowhere", headers={"X-Request-ID": "abc"})
        trailing = await client.post("/segment/", **form())
        wrong = await client.get("/segment")
        wrong_too = await client.post("/readyz")
    assert (missing.status_code, missing.json()["code"]) == (404, "not_found")
    assert missing.json()["request_id"] == "abc"
    assert trailing.status_code == 404
    assert (wrong.status_code, wrong.json()["code"]) == (405, "method_not_allowed")
    assert wrong.headers["allow"] == "POST"
    assert wrong_too.headers["allow"] == "GET, HEAD"
    for response in (missing, wrong, wrong_too):
        assert response.headers["content-type"] == "application/problem+json"


async def test_routes_in_metrics_are_templates() -> None:
    """A caller cannot make new label values."""
    app = make_app()
    async with running(app) as client:
        for path in ("/a", "/b", "/docs/assets/zzz", "/livez"):
            await client.get(path)
        text = (await client.get("/metrics")).text
    assert 'lungseg_requests_total{code="404",route="unmatched"} 2.0' in text
    assert 'route="/docs/assets/{name}"' in text
    assert "zzz" not in text
