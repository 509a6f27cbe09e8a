"""Readiness follows the image workers: they have to decode the golden image again and again."""

from __future__ import annotations

import pytest

from service.imaging.task_data import OPEN_TASK
from service.pipeline import image_proof
from service.workers.errors import EndReason, TooCostly, WorkerLost
from tests.service.fake_model import form, make_app, running, until
from tests.service.in_process_pool import InProcessPool

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "error",
    [TooCostly(EndReason.MEMORY_LIMIT), WorkerLost(EndReason.KILLED)],
    ids=["too costly", "lost"],
)
async def test_the_service_is_not_ready_while_no_worker_decodes_the_golden_image(
    error: TooCostly | WorkerLost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_proof, "LOOK_INTERVAL_S", 0.02)
    app = make_app(recheck_interval_s=0.05)
    pool = app.state.service._pool
    assert isinstance(pool, InProcessPool)
    async with running(app) as client:
        assert (await client.get("/readyz")).status_code == 200
        pool.fails_with[OPEN_TASK] = error
        await until(lambda: app.state.service.readiness.state.value == "recovering")
        answer = await client.get("/readyz")
        assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
        assert (await client.get("/livez")).status_code == 200
        assert (await client.post("/segment", **form())).json()["code"] == "not_ready"
        pool.fails_with.clear()
        await until(lambda: app.state.service.readiness.state.value == "ready")
        assert (await client.post("/segment", **form())).status_code == 200


async def test_a_worker_that_makes_something_else_of_the_golden_image_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(image_proof, "LOOK_INTERVAL_S", 0.02)
    app = make_app(recheck_interval_s=0.05)
    async with running(app):
        readiness = app.state.service.readiness
        assert readiness.state.value == "ready"
        proof = app.state.service._proof
        for digest in proof._digests:
            proof._digests[digest] = b"of another input"
        await until(lambda: readiness.state.value == "recovering")
