"""Several devices: shared work, one readiness, and a lost one that takes its share alone."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from fastapi import FastAPI

from service.app import create_app
from service.compute import fleet as fleet_module
from service.compute.model_handle import Memory, ModelRefusedError
from service.compute.visible_gpus import environment_of
from service.errors import ComputeLost
from service.settings import Settings
from tests.service.fake_model import (
    FAILED,
    FakeInfo,
    FakePredictor,
    assert_nothing_is_held,
    form,
    running,
    sample,
    until,
)
from tests.service.in_process_pool import in_process_pool

pytestmark = pytest.mark.anyio


@dataclass
class Devices:
    """Makes a model for each device that is asked for.

    Attributes:
        made: the latest model of each device.
        refused: devices that have no model.
        failing: devices whose self test fails.
        digests: of the models of devices that find other files.
        gate: holds every model call until it is set.
    """

    made: dict[str, FakePredictor] = field(default_factory=dict)
    refused: tuple[str, ...] = ()
    failing: tuple[str, ...] = ()
    digests: dict[str, str] = field(default_factory=dict)
    gate: threading.Event = field(default_factory=threading.Event)

    def make(self, settings: Settings) -> FakePredictor:
        device = settings.device
        if device in self.refused:
            raise ModelRefusedError("the folder is damaged")
        model = FakePredictor(self.hold, info=self.info(device))
        model.memory = Memory(100, {"allocated": 7})
        if device in self.failing:
            model.test = lambda: FAILED
        self.made[device] = model
        return model

    def info(self, device: str) -> FakeInfo:
        usual = FakeInfo(device=device)
        return dataclasses.replace(usual, sha256=self.digests.get(device, usual.sha256))

    def hold(self, requests: Sequence[Any]) -> None:
        assert self.gate.wait(20)

    def app(self, devices: str, **settings: Any) -> FastAPI:
        return create_app(
            Settings(devices=devices, **settings),
            pool_factory=in_process_pool,
            predictor_factory=self.make,
        )


async def ready_devices(app: FastAPI, count: int) -> None:
    await until(lambda: sample(app, "lungseg_devices_ready") == count)
    # With a device there is an answer once the image workers are proven, too.
    await until(lambda: sample(app, "lungseg_ready") == (count > 0))


async def test_requests_go_where_fewest_wait_and_every_device_is_named() -> None:
    devices = Devices()
    app = devices.app("cuda:0,cuda:1", max_batch=1)
    async with running(app) as client:
        await ready_devices(app, 2)
        card = (await client.get("/v1/model")).json()
        assert card["devices"] == ["cuda:0", "cuda:1"]
        asked = [asyncio.create_task(client.post("/segment", **form())) for _ in range(6)]
        await until(lambda: [one.jobs for one in app.state.service.host.devices] == [3, 3])
        devices.gate.set()
        answers = [(await one).json() for one in asked]
        text = (await client.get("/metrics")).text
    answered = [one["model"]["device"] for one in answers]
    assert sorted(answered) == ["cuda:0"] * 3 + ["cuda:1"] * 3
    assert 'lungseg_gpu_memory_bytes{kind="allocated"} 14.0' in text
    assert "lungseg_compute_resident_memory_bytes 200.0" in text
    for device in ("cuda:0", "cuda:1"):
        assert f'device="{device}",name="fake"' in text
    assert "lungseg_batch_size_count 6.0" in text
    assert_nothing_is_held(app)


async def test_files_replaced_while_the_devices_start_make_no_second_model() -> None:
    """A later device would load what lies on disk by then."""
    devices = Devices(digests={"cuda:1": "f" * 64})
    devices.gate.set()
    app = devices.app("cuda:0,cuda:1", max_batch=1)
    async with running(app) as client:
        refused = functools.partial(sample, app, "lungseg_model_changes_total", outcome="refused")
        await until(lambda: refused() >= 1)
        await ready_devices(app, 1)
        answers = await asyncio.gather(*(client.post("/segment", **form()) for _ in range(4)))
        digests = {one.json()["model"]["sha256"] for one in answers}
        assert len(digests) == 1
        assert {one.status_code for one in answers} == {200}
        assert sample(app, "lungseg_devices_ready") == 1


async def test_a_lost_device_takes_its_share_alone_and_comes_back() -> None:
    devices = Devices()
    devices.gate.set()
    app = devices.app("cuda:0,cuda:1")
    async with running(app) as client:
        await ready_devices(app, 2)
        first, second = app.state.service.host.devices
        revived = threading.Event()
        make = devices.make
        first.loader._predictor_factory = lambda settings: (revived.wait(20), make(settings))[1]
        devices.made["cuda:0"].is_running = False
        await ready_devices(app, 1)
        assert (await client.get("/readyz")).status_code == 200
        for _ in range(3):
            answer = await client.post("/segment", **form())
            assert answer.json()["model"]["device"] == "cuda:1"
        revived.set()
        await ready_devices(app, 2)
        assert sample(app, "lungseg_compute_restarts_total") == 1
        assert second.loader.model is devices.made["cuda:1"]


async def test_the_last_device_takes_the_readiness_along() -> None:
    devices = Devices()
    devices.gate.set()
    app = devices.app("cuda:0,cuda:1")
    async with running(app) as client:
        await ready_devices(app, 2)
        stays_lost = threading.Event()

        def none(settings: Settings) -> FakePredictor:
            stays_lost.wait(20)
            raise ComputeLost("gone")

        for device in app.state.service.host.devices:
            device.loader._predictor_factory = none
        for model in devices.made.values():
            model.is_running = False
        await ready_devices(app, 0)
        answer = await client.get("/readyz")
        assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
        stays_lost.set()


@pytest.mark.parametrize("bad", [("cuda:0",), ("cuda:1",)])
async def test_a_device_that_never_gives_the_golden_mask_gets_nothing(bad: tuple[str]) -> None:
    devices = Devices(failing=bad)
    devices.gate.set()
    app = devices.app("cuda:0,cuda:1")
    async with running(app) as client:
        await ready_devices(app, 1)
        answers = [(await client.post("/segment", **form())).json() for _ in range(4)]
    assert bad[0] not in {answer["model"]["device"] for answer in answers}


async def test_the_service_is_refused_when_every_device_refuses_the_model() -> None:
    refusals: list[Exception] = []
    devices = Devices(refused=("cuda:0", "cuda:1"))
    app = create_app(
        Settings(devices="cuda:0,cuda:1"),
        pool_factory=in_process_pool,
        predictor_factory=devices.make,
        on_refused=refusals.append,
    )
    async with running(app) as client:
        await until(lambda: bool(refusals))
        assert (await client.get("/readyz")).status_code == 503
    assert len(refusals) == 1


async def test_every_visible_gpu_is_found_while_the_first_model_loads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fleet_module, "visible_gpus", lambda: 3)
    devices = Devices()
    devices.gate.set()
    app = devices.app("all")
    async with running(app):
        await ready_devices(app, 3)
    assert sorted(devices.made) == ["auto", "cuda:1", "cuda:2"]
    on_cpu = Devices()
    on_cpu.gate.set()
    app = on_cpu.app("all", device="cpu")
    async with running(app):
        await ready_devices(app, 1)
    assert list(on_cpu.made) == ["cpu"]


@pytest.mark.parametrize(
    ("device", "visible", "expected"),
    [
        ("auto", None, {}),
        ("cuda", "3", {}),
        ("cuda:1", None, {"CUDA_VISIBLE_DEVICES": "1"}),
        ("cuda:1", "4, GPU-7f", {"CUDA_VISIBLE_DEVICES": "GPU-7f"}),
        ("cuda:2", "4,5", {"CUDA_VISIBLE_DEVICES": ""}),
    ],
)
async def test_a_process_sees_its_gpu_alone(
    device: str, visible: str | None, expected: dict[str, str]
) -> None:
    """Numbers count what is visible here; one that is not there leaves none."""
    assert environment_of(device, visible) == expected
