"""The worker and the loader when the model is lost: refusals at once, a new model, the truth."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from fastapi import FastAPI

from model_store.self_test_result import SelfTestResult
from service.app import create_app
from service.errors import ComputeLost, OutOfMemory
from service.settings import Settings
from tests.service.fake_model import (
    FAILED,
    PASSED,
    FakePredictor,
    Gate,
    form,
    running,
    sample,
    until,
)
from tests.service.in_process_pool import in_process_pool

pytestmark = pytest.mark.anyio


class Devices:
    """Hands out models: each new one starts healthy.

    Attributes:
        made: how many were started.
        outcome: what the self test finds.
        may_restart: every start but the first waits for it.
    """

    def __init__(self, before: Any = lambda requests: None) -> None:
        """Keeps what happens before each call of the first model."""
        self.made = 0
        self.tests = 0
        self.outcome = PASSED
        self.failing_starts = 0
        self.may_restart = threading.Event()
        self.may_restart.set()
        self._before = before

    def make(self, settings: Settings) -> Any:
        """Starts a model, or fails to."""
        if self.made:
            assert self.may_restart.wait(20)
        self.made += 1
        if self.failing_starts and self.made > 1:
            self.failing_starts -= 1
            raise RuntimeError("no memory")
        before = self._before if self.made == 1 else lambda requests: None
        return FakePredictor(before, test=self.test)

    def test(self) -> SelfTestResult:
        """Tells what is to be found; the first model only may be bad."""
        self.tests += 1
        return self.outcome if self.made == 1 else PASSED

    def app(self, **settings: Any) -> FastAPI:
        """Builds an app on these devices."""
        return create_app(
            Settings(**settings), pool_factory=in_process_pool, predictor_factory=self.make
        )


def state(app: FastAPI) -> str:
    return str(app.state.service.readiness.state.value)


def count_accepted(app: FastAPI) -> list[Any]:
    """Notes each image handed to the worker: those still being decoded wait for the new process."""
    worker, accepted = app.state.service.host, []
    submit = worker.submit

    def noted(*given: Any) -> Any:
        job = submit(*given)
        accepted.append(job)
        return job

    worker.submit = noted
    return accepted


async def test_a_lost_process_refuses_all_in_flight_and_comes_back() -> None:
    gate = Gate()

    def die(requests: Sequence[Any]) -> None:
        gate.hold(requests)
        raise ComputeLost("It ended.", retry_after_s=2)

    devices = Devices(die)
    devices.failing_starts = 1
    devices.may_restart.clear()
    app = devices.app(max_batch=2)
    accepted = count_accepted(app)
    async with running(app) as client:
        waiting = [asyncio.create_task(client.post("/segment", **form())) for _ in range(5)]
        await until(lambda: gate.entered.is_set() and len(accepted) == 5)
        gate.opened.set()
        answers = await asyncio.gather(*waiting)
        assert state(app) == "recovering"
        not_ready = await client.get("/readyz")
        refused = await client.post("/segment", **form())
        devices.may_restart.set()
        await until(lambda: state(app) == "ready")
        again = await client.post("/segment", **form())
    assert {(one.status_code, one.json()["code"]) for one in answers} == {(503, "compute_lost")}
    assert all(int(one.headers["retry-after"]) >= 1 for one in answers)
    assert (not_ready.status_code, refused.status_code) == (503, 503)
    assert refused.json()["code"] == "not_ready"
    assert again.status_code == 200
    assert sample(app, "lungseg_compute_restarts_total") == 2
    assert devices.made == 3


async def test_out_of_memory_is_503_once_and_the_model_is_proven_again() -> None:
    calls = []

    def exhausted(requests: Sequence[Any]) -> None:
        calls.append(len(requests))
        if len(calls) == 1:
            raise OutOfMemory("Too little.", retry_after_s=2)

    devices = Devices(exhausted)
    app = devices.app()
    async with running(app) as client:
        first = await client.post("/segment", **form())
        second = await client.post("/segment", **form())
        await until(lambda: devices.tests == 2)
    assert (first.status_code, first.json()["code"]) == (503, "out_of_memory")
    assert second.status_code == 200
    assert devices.made == 1


async def test_a_model_that_predicts_the_golden_mask_no_more_is_replaced() -> None:
    """On a timer, without any request."""
    devices = Devices()
    app = devices.app(recheck_interval_s=0.05)
    async with running(app):
        await until(lambda: devices.tests >= 3)
        assert devices.made == 1
        devices.outcome = FAILED
        await until(lambda: devices.made == 2 and state(app) == "ready")
    assert sample(app, "lungseg_self_test_failures_total") == 1


async def test_the_timer_runs_under_load_too() -> None:
    devices = Devices()
    app = devices.app(recheck_interval_s=0.05)
    async with running(app) as client:
        for _ in range(20):
            assert (await client.post("/segment", **form())).status_code == 200
        assert devices.tests >= 2


@pytest.mark.parametrize("fails_in", ["start", "self test"])
async def test_a_first_start_that_is_lost_is_tried_again(fails_in: str) -> None:
    """A process killed while it loads, or a device busy for a moment, says nothing of the masks."""
    calls = []

    def make(settings: Settings) -> Any:
        calls.append("start")
        if fails_in == "start" and len(calls) == 1:
            raise ComputeLost("It ended.", retry_after_s=2)
        return FakePredictor(test=test)

    def test() -> SelfTestResult:
        if fails_in == "self test" and len(calls) == 1:
            raise RuntimeError("CUDA out of memory")
        return PASSED

    app = create_app(Settings(), pool_factory=in_process_pool, predictor_factory=make)
    async with running(app) as client:
        await until(lambda: state(app) == "ready")
        assert (await client.post("/segment", **form())).status_code == 200
    assert calls == ["start", "start"]


async def test_a_first_model_that_predicts_another_mask_is_final() -> None:
    """The same model on the same machine would only come out right by chance."""
    devices = Devices()
    devices.outcome = FAILED
    app = devices.app(recheck_interval_s=0.05)
    async with running(app) as client:
        await until(lambda: sample(app, "lungseg_self_test_failures_total") == 1)
        await asyncio.sleep(0.2)  # four times as long as between rechecks
        answer = await client.get("/readyz")
        assert (await client.get("/livez")).status_code == 200
    assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
    assert "self test" in answer.json()["detail"]
    assert (devices.made, devices.tests) == (1, 1)
    assert sample(app, "lungseg_self_test_failures_total") == 1
