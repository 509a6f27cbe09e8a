"""A shadow model: compared and counted, never answered, and nobody's request knows of it."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import json
import os
import shutil
import signal
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI

from benchmarks.service.server_process import running_server
from model_store.geometry import InputGeometry
from model_store.postprocessing import MaskLogits, mask_from
from service.app import create_app
from service.compute.model_handle import ModelRefusedError
from service.compute.network_data import NetworkInput
from service.errors import ComputeLost
from service.imaging.comparison_data import CompareOrder, LogitsPair, LogitsSize
from service.imaging.mask_comparison import compare
from service.pipeline import shadow as shadow_module
from service.settings import Settings
from tests.service.fake_model import (
    FAILED,
    FakeInfo,
    FakeManifest,
    FakePredictor,
    Gate,
    assert_nothing_is_held,
    form,
    picture,
    png,
    running,
    sample,
    until,
)
from tests.service.in_process_pool import InProcessPool
from tests.service.live_service import compute_processes, is_ready, metric, url
from tests.service.live_service import until as until_now
from tests.tiny_models import write_tiny_artifact

PATIENCE_S = 170.0
SHADOW = FakeInfo(name="candidate", version="2")


@asynccontextmanager
async def shadowed(
    tmp_path: Path, shadow: FakePredictor | Callable[[Settings], Any], **settings: Any
) -> AsyncGenerator[tuple[FastAPI, httpx.AsyncClient, InProcessPool], None]:
    """A running app with a shadow model that sees every X-ray."""
    pool = InProcessPool()
    settings = {"shadow_share": 1.0, **settings}
    app = create_app(
        Settings(shadow_model=tmp_path, **settings),
        predictor_factory=lambda _: FakePredictor(),
        pool_factory=lambda *_: pool,
        shadow_factory=shadow if not isinstance(shadow, FakePredictor) else lambda _: shadow,
    )
    async with running(app) as client:
        yield app, client, pool


def outcomes(app: FastAPI, outcome: str) -> float:
    return sample(app, "lungseg_shadow_requests_total", outcome=outcome)


def is_compared(app: FastAPI, count: int) -> bool:
    return outcomes(app, "compared") == count


async def is_there(app: FastAPI, client: httpx.AsyncClient) -> None:
    """Wait until the shadow model is proven."""
    async with asyncio.timeout(10):
        while sample(app, "lungseg_shadow_models_ready") == 0:
            await client.get("/metrics")


pytestmark = pytest.mark.anyio


async def test_every_answer_is_the_served_models_and_the_shadow_is_compared(tmp_path: Path) -> None:
    async with shadowed(tmp_path, FakePredictor(info=SHADOW)) as (app, client, _):
        await is_there(app, client)
        for number in range(3):
            answer = await client.post("/segment", **form(picture(number)))
            assert (answer.status_code, answer.json()["model"]["name"]) == (200, "fake")
            await until(functools.partial(is_compared, app, number + 1))
        assert sample(app, "lungseg_shadow_dice_count") == 3
        assert sample(app, "lungseg_shadow_dice_sum") == 3  # the same fake: the same masks
        assert sample(app, "lungseg_shadow_area_ratio_sum") == 3
        listed = (await client.get("/v1/models")).json()["models"]
        refused = await client.post("/segment", **form(model="candidate/2"))
        text = (await client.get("/metrics")).text
        assert [one["model"]["name"] for one in listed] == ["fake"]
        assert refused.status_code == 422 and "candidate" not in refused.json()["detail"]
        assert 'lungseg_shadow_info{device="cpu",name="candidate"' in text
        assert text.count("lungseg_model_info{") == 1
        assert_nothing_is_held(app)


def half(requests: Sequence[NetworkInput]) -> None:
    """Blacken the lower half of what the network gets, so that its mask ends there."""
    given = requests[0]
    kept = len(given.pixels) // 2
    object.__setattr__(given, "pixels", given.pixels[:kept] + bytes(len(given.pixels) - kept))


async def test_a_mask_that_differs_is_counted_and_its_request_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    white = np.full((96, 96), 200, np.uint8)
    white[:, :8] = 0
    caplog.set_level("INFO", logger="service.shadow")
    async with shadowed(tmp_path, FakePredictor(half, SHADOW)) as (app, client, _):
        await is_there(app, client)
        answer = await client.post("/segment", headers={"X-Request-ID": "first"}, **form(white))
        assert answer.status_code == 200
        await until(lambda: outcomes(app, "compared") == 1)
        assert sample(app, "lungseg_shadow_dice_sum") == pytest.approx(2 / 3, abs=0.01)
        assert sample(app, "lungseg_shadow_area_ratio_sum") == pytest.approx(0.5, abs=0.01)
    (line,) = [one for one in caplog.records if one.message == "shadow differs"]
    said = vars(line)["fields"]
    assert (said["request_id"], said["shadow"]) == ("first", "candidate/2")


async def test_a_shadow_that_hangs_slows_nobody_and_what_does_not_fit_is_dropped(
    tmp_path: Path,
) -> None:
    gate = Gate()
    async with shadowed(tmp_path, FakePredictor(gate.hold, SHADOW)) as (app, client, _):
        await is_there(app, client)
        assert (await client.post("/segment", **form())).status_code == 200
        await until(gate.entered.is_set)
        for _ in range(7):
            assert (await client.post("/segment", **form())).status_code == 200
        assert outcomes(app, "dropped") == 7 - shadow_module.QUEUE_LIMIT
        assert (await client.get("/readyz")).status_code == 200
        gate.opened.set()
        await until(lambda: outcomes(app, "compared") == 1 + shadow_module.QUEUE_LIMIT)
        assert_nothing_is_held(app)


async def test_a_shadow_waits_while_requests_are_inside_and_then_gives_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shadow_module, "PATIENCE_S", 0.2)
    shadow = FakePredictor(info=SHADOW)
    async with shadowed(tmp_path, shadow) as (app, client, _):
        await is_there(app, client)
        place = app.state.service.admission.enter()
        assert (await client.post("/segment", **form())).status_code == 200
        await until(lambda: outcomes(app, "dropped") == 1)
        assert shadow.batch_sizes == []
        place.leave()
        assert (await client.post("/segment", **form())).status_code == 200
        await until(lambda: outcomes(app, "compared") == 1)


def refused(settings: Settings) -> Any:
    raise ModelRefusedError("The weights are damaged.")


def crashing(settings: Settings) -> Any:
    def die(requests: Any) -> None:
        raise ComputeLost("gone")

    return FakePredictor(die, SHADOW)


def failing(settings: Settings) -> Any:
    return FakePredictor(info=SHADOW, test=lambda: FAILED)


@pytest.mark.parametrize(
    ("factory", "outcome"), [(refused, "not_ready"), (failing, "not_ready"), (crashing, "failed")]
)
async def test_a_shadow_that_is_broken_touches_neither_readiness_nor_the_services_figures(
    factory: Callable[[Settings], Any], outcome: str, tmp_path: Path
) -> None:
    async with shadowed(tmp_path, factory) as (app, client, _):
        if outcome == "failed":
            await is_there(app, client)
        answer = await client.post("/segment", **form())
        assert answer.status_code == 200
        await until(lambda: outcomes(app, outcome) == 1)
        assert (await client.get("/readyz")).status_code == 200
        assert (await client.post("/segment", **form())).status_code == 200
        for name in ("compute_restarts_total", "self_test_failures_total", "rejected_total"):
            assert sample(app, f"lungseg_{name}") == 0
        if outcome == "failed":
            await until(lambda: sample(app, "lungseg_shadow_faults_total", kind="restart") >= 1)
        await client.get("/metrics")
        assert sample(app, "lungseg_shadow_models") == 1


async def test_a_comparison_that_fails_fails_no_request(tmp_path: Path) -> None:
    async with shadowed(tmp_path, FakePredictor(info=SHADOW)) as (app, client, pool):

        def broken(task: Any) -> Any:
            raise ValueError("no")

        pool.tasks["compare"] = broken
        await is_there(app, client)
        assert (await client.post("/segment", **form())).status_code == 200
        await until(lambda: outcomes(app, "failed") == 1)
        assert (await client.post("/segment", **form())).status_code == 200


async def test_a_shadow_of_another_input_gets_the_xray_prepared_for_it(tmp_path: Path) -> None:
    sides: list[int] = []
    info = dataclasses.replace(SHADOW, input_size=48)
    shadow = FakePredictor(lambda requests: sides.append(requests[0].side), info)
    async with shadowed(tmp_path, shadow) as (app, client, _):
        await is_there(app, client)
        assert (await client.post("/segment", **form(picture(3)))).status_code == 200
        await until(lambda: outcomes(app, "compared") == 1)
        assert sides == [48]
        assert 0.8 < sample(app, "lungseg_shadow_dice_sum") < 1
        assert app.state.service._shadow._upload_bytes == 0
        assert_nothing_is_held(app)


async def test_what_the_shadow_does_not_know_is_not_compared(tmp_path: Path) -> None:
    info = dataclasses.replace(SHADOW, manifest=FakeManifest(conventions=("whole_lung",)))
    async with shadowed(tmp_path, FakePredictor(info=info)) as (app, client, _):
        await is_there(app, client)
        assert (await client.post("/segment", **form())).status_code == 200
        assert outcomes(app, "not_comparable") == 1
        assert (await client.post("/segment", **form(convention="whole_lung"))).status_code == 200
        await until(lambda: outcomes(app, "compared") == 1)


async def test_a_share_of_the_xrays_is_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = iter([0.05, 0.1, 0.5, 0.09])
    monkeypatch.setattr("service.pipeline.shadow.random.random", lambda: next(numbers))
    async with shadowed(tmp_path, FakePredictor(info=SHADOW), shadow_share=0.1) as (app, client, _):
        await is_there(app, client)
        for _ in range(4):
            assert (await client.post("/segment", **form())).status_code == 200
        await until(lambda: outcomes(app, "compared") == 2)


def test_masks_are_compared_as_answers_make_them() -> None:
    """The Dice of reduced masks is that of whole ones, also for models of other inputs."""
    generator = np.random.default_rng(2)
    coarse = generator.normal(size=(6, 6))
    logits = [
        np.kron(coarse + 0.3 * generator.normal(size=(6, 6)), np.ones((side // 6,) * 2))
        for side in (96, 48)
    ]
    width, height, sizes = 2600, 2100, (384, 192)
    order = CompareOrder(
        width, height, 0.5, (LogitsPair(LogitsSize(96, sizes[0]), LogitsSize(48, sizes[1])),)
    )
    flat = np.concatenate([one.astype(np.float32).ravel() for one in logits])
    (found,) = compare(order, flat)
    box = (0.0, 0.0, float(width), float(height))
    first, second = (
        mask_from(
            MaskLogits(box, one.astype(np.float32), 1.0), InputGeometry(width, height, size), 0.5
        ).mask
        for one, size in zip(logits, sizes, strict=True)
    )
    dice = 2 * (first & second).sum() / (first.sum() + second.sum())
    assert found.dice == pytest.approx(dice, abs=0.002) and 0.5 < dice < 0.99
    assert found.area_ratio == pytest.approx(second.sum() / first.sum(), abs=0.005)
    nothing = compare(order, np.full_like(flat, -9.0))[0]
    assert (nothing.dice, nothing.area_ratio) == (1.0, None)


@pytest.fixture(scope="module")
def other_artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_artifact(tmp_path_factory.mktemp("models"), seed=7, version="2")


def test_in_real_processes_it_gives_way_and_may_be_killed(
    tiny_artifact: Path, other_artifact: Path, tmp_path: Path
) -> None:
    broken = Path(shutil.copytree(other_artifact, tmp_path / "shadow"))
    flags = ["--threads", "1", "--shadow-model", str(broken), "--shadow-share", "1"]
    with running_server(tiny_artifact, flags) as server:
        # It gets what others leave of the processors, so it may take long.
        until_now(lambda: metric(server, "lungseg_shadow_models_ready") == 1, PATIENCE_S)
        policies = {pid: os.sched_getscheduler(pid) for pid in compute_processes(server)}
        (shadow,) = [pid for pid, policy in policies.items() if policy == os.SCHED_IDLE]
        assert os.getpriority(os.PRIO_PROCESS, shadow) == 19
        assert Path(f"/proc/{shadow}/oom_score_adj").read_text().strip() == "1000"
        threads = [int(one.name) for one in Path(f"/proc/{shadow}/task").iterdir()]
        assert {os.sched_getscheduler(thread) for thread in threads} == {os.SCHED_IDLE}
        answer = json.loads(server.segment(png(picture()), {"overlay": "false"}).body)
        assert answer["model"]["version"] == "1"
        compared = 'lungseg_shadow_requests_total{outcome="compared"}'
        until_now(lambda: metric(server, compared) == 1, PATIENCE_S)
        assert 0 <= metric(server, "lungseg_shadow_dice_sum") < 1  # another model, another mask
        (broken / "weights.safetensors").write_bytes(b"damaged")  # so that none comes back
        statuses: list[int] = []
        is_over = threading.Event()

        def ask() -> None:
            while not is_over.is_set():
                statuses.append(server.segment(png(picture(1)), {"overlay": "false"}).status)
                statuses.append(httpx.get(url(server, "/readyz")).status_code)

        caller = threading.Thread(target=ask)
        caller.start()
        os.kill(shadow, signal.SIGKILL)
        until_now(lambda: metric(server, 'lungseg_shadow_faults_total{kind="restart"}') >= 1)
        until_now(lambda: metric(server, "lungseg_shadow_models_ready") == 0)
        is_over.set()
        caller.join()
        assert statuses and set(statuses) == {200}
        assert is_ready(server) and metric(server, "lungseg_compute_restarts_total") == 0
