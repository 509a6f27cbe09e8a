"""Several models side by side: a field says which answers, and each is a model of its own."""

from __future__ import annotations

import asyncio
import io
import json
import shutil
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pydicom
import pytest
from fastapi import FastAPI

from model_store.model_index import default_model_folder
from service.app import create_app
from service.audit.chain import entries_of
from service.compute.model_handle import ModelRefusedError
from service.errors import ComputeLost
from service.http.admin_app import create_admin_app
from service.http.keys import ApiKeys
from service.settings import Settings, settings_from
from tests.dicom_files import as_file, make_xray
from tests.service.fake_model import (
    FAILED,
    FakeInfo,
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
from tests.service.in_process_pool import in_process_pool
from tests.service.test_keys import line as key_line

ADMIN = {"X-API-Key": "chief"}


@dataclass
class Shelf:
    """Makes a fake model for each folder, named `NAME-VERSION`.

    Attributes:
        names: folders that hold a model of another name than their own.
        made: the latest model of each folder.
        gates: hold the calls of a folder's model.
        refused: folders that hold no usable model.
        failing: folders whose model fails its self test.
    """

    names: dict[str, str] = field(default_factory=dict)
    made: dict[str, FakePredictor] = field(default_factory=dict)
    gates: dict[str, Gate] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    failing: set[str] = field(default_factory=set)

    def make(self, settings: Settings) -> Any:
        assert settings.model is not None
        folder = settings.model.name
        if folder in self.refused:
            raise ModelRefusedError(f"The weights of {folder} are damaged.")
        name, _, version = self.names.get(folder, folder).partition("-")
        device = settings.device if settings.device.startswith("cuda") else "cpu"
        digest = folder.encode().hex().zfill(64)
        info = replace(FakeInfo(), name=name, version=version, sha256=digest, device=device)
        gate = self.gates.get(folder)
        made = FakePredictor(info=info) if gate is None else FakePredictor(gate.hold, info)
        if folder in self.failing:
            made.test = lambda: FAILED
        self.made[folder] = made
        return made


@asynccontextmanager
async def serving(
    tmp_path: Path, shelf: Shelf, *folders: str, **settings: Any
) -> AsyncGenerator[tuple[FastAPI, httpx.AsyncClient, list[Exception]], None]:
    """A running app with the models of these folders."""
    for name in folders:
        (tmp_path / name).mkdir(exist_ok=True)
        shutil.copy(default_model_folder() / "golden_image.png", tmp_path / name)
    first, *others = (tmp_path / name for name in folders)
    refusals: list[Exception] = []
    app = create_app(
        Settings(model=first, further_models=tuple(others), **settings),
        predictor_factory=shelf.make,
        pool_factory=in_process_pool,
        on_refused=refusals.append,
    )
    async with running(app) as client:
        yield app, client, refusals


async def answered_by(client: httpx.AsyncClient, **fields: Any) -> str:
    answer = await client.post("/segment", **form(**fields))
    assert answer.status_code == 200, answer.text
    model = answer.json()["model"]
    assert model["sha256"] == f"{model['name']}-{model['version']}".encode().hex().zfill(64)
    return f"{model['name']}/{model['version']}"


def figure(app: FastAPI, name: str, version: str, **labels: str) -> float:
    """Read a metric of the model `lungs` of a version."""
    labels |= {"name": "lungs", "version": version}
    value = app.state.service.metrics.registry.get_sample_value(f"lungseg_model_{name}", labels)
    return 0.0 if value is None else float(value)


pytestmark = pytest.mark.anyio


async def test_the_field_says_which_model_answers_and_none_means_the_first(tmp_path: Path) -> None:
    async with serving(tmp_path, Shelf(), "lungs-6", "lungs-5", "other-1") as (app, client, _):
        assert await answered_by(client) == "lungs/6"
        for wanted, meant in (
            ("lungs", "lungs/6"), ("lungs/6", "lungs/6"), ("lungs/5", "lungs/5"),
            ("other", "other/1"), ("other/1", "other/1"),
        ):  # fmt: skip
            assert await answered_by(client, model=wanted) == meant
        headers = {"Content-Type": "application/dicom"}
        raw = as_file(make_xray())
        bare = await client.post("/segment?model=lungs/5", content=raw, headers=headers)
        assert (bare.status_code, bare.json()["model"]["version"]) == (200, "5")
        assert_nothing_is_held(app)


@pytest.mark.parametrize("wanted", ["lungs/7", "heart", "6", "", "lungs/", "LUNGS/6"])
async def test_a_model_that_is_not_served_is_refused_with_those_that_are(
    wanted: str, tmp_path: Path
) -> None:
    async with serving(tmp_path, Shelf(), "lungs-6", "lungs-5") as (app, client, _):
        refused = await client.post("/segment", **form(model=wanted))
        assert (refused.status_code, refused.json()["code"]) == (422, "unknown_model")
        assert "lungs/6, lungs/5" in refused.json()["detail"]
        card = await client.get("/v1/model", params={"model": wanted})
        assert (card.status_code, card.json()["code"]) == (422, "unknown_model")
        assert_nothing_is_held(app)


async def test_the_service_names_all_its_models(tmp_path: Path) -> None:
    async with serving(tmp_path, Shelf(), "lungs-6", "lungs-5") as (app, client, _):
        ready = (await client.get("/readyz")).json()
        listed = (await client.get("/v1/models")).json()
        assert ready["model"]["version"] == "6"
        assert ready["models"] == listed["models"]
        assert [one["model"]["version"] for one in listed["models"]] == ["6", "5"]
        for one in listed["models"]:
            assert one["is_ready"] and one["devices"] == ["cpu"] and one["self_test"]["passed"]
        assert (await client.get("/v1/model")).json()["model"]["version"] == "6"
        card = await client.get("/v1/model", params={"model": "lungs/5"})
        assert card.json()["model"]["version"] == "5"
        assert app.state.service.served().count("lungs") == 2


async def test_each_model_has_figures_of_its_own_and_the_old_ones_count_all(tmp_path: Path) -> None:
    async with serving(tmp_path, Shelf(), "lungs-6", "lungs-5") as (app, client, _):
        for version, count in (("6", 3), ("5", 2)):
            for _ in range(count):
                await answered_by(client, model=f"lungs/{version}")
        await client.post("/segment", **form(model="lungs/5", bbox="0,0,0,0"))
        blank = await client.post("/segment", **form(picture() * 0, model="lungs/5"))
        codes = {one["code"] for one in blank.json()["warnings"]}
        text = (await client.get("/metrics")).text

        assert figure(app, "requests_total", "6", code="200") == 3
        assert figure(app, "requests_total", "5", code="200") == 3
        assert figure(app, "requests_total", "5", code="422") == 0  # its form was refused before
        assert figure(app, "request_duration_seconds_count", "6") == 3
        assert figure(app, "ready", "5") == figure(app, "ready", "6") == 1
        assert "empty_mask" in codes and figure(app, "warnings_total", "5", code="empty_mask") == 1
        assert sample(app, "lungseg_requests_total", route="/segment", code="200") == 6
        assert text.count("lungseg_model_info{") == 2


@pytest.mark.parametrize(("lost", "other"), [("5", "6"), ("6", "5")])
async def test_a_lost_model_takes_its_own_requests_alone(
    lost: str, other: str, tmp_path: Path
) -> None:
    shelf = Shelf()
    async with serving(tmp_path, shelf, "lungs-6", "lungs-5") as (app, client, _):

        def die(requests: Any) -> None:
            shelf.refused.add(f"lungs-{lost}")  # so that it does not come back at once
            raise ComputeLost("gone")

        shelf.made[f"lungs-{lost}"].before = die
        for _ in range(2):
            gone = await client.post("/segment", **form(model=f"lungs/{lost}"))
            assert (gone.status_code, gone.json()["code"]) == (503, "compute_lost")
            assert await answered_by(client, model=f"lungs/{other}") == f"lungs/{other}"
        ready = await client.get("/readyz")
        assert ready.status_code == (503 if lost == "6" else 200)  # the first opens and closes it
        listed = (await client.get("/v1/models")).json()["models"]
        states = {one["model"]["version"]: one["is_ready"] for one in listed}
        assert states == {lost: False, other: True}
        await client.get("/metrics")
        assert figure(app, "ready", lost) == 0
        assert figure(app, "ready", other) == 1
        shelf.refused.clear()
        await until(lambda: app.state.service.models.is_ready(0 if lost == "6" else 1))
        assert await answered_by(client, model=f"lungs/{lost}") == f"lungs/{lost}"
        assert (await client.get("/readyz")).status_code == 200
        assert_nothing_is_held(app)


async def test_a_model_that_computes_holds_up_no_other(tmp_path: Path) -> None:
    shelf = Shelf(gates={"lungs-6": Gate()})
    async with serving(tmp_path, shelf, "lungs-6", "lungs-5", devices="cuda:0") as (_, client, _r):
        held = asyncio.create_task(answered_by(client))
        await until(shelf.gates["lungs-6"].entered.is_set)
        assert await answered_by(client, model="lungs/5") == "lungs/5"
        assert not held.done()
        shelf.gates["lungs-6"].opened.set()
        assert await held == "lungs/6"


def refuse(shelf: Shelf) -> None:
    shelf.refused.add("lungs-5")


def fail(shelf: Shelf) -> None:
    shelf.failing.add("lungs-5")


def name_twice(shelf: Shelf) -> None:
    shelf.names["lungs-5"] = "lungs-6"


@pytest.mark.parametrize(
    ("spoil", "ends", "said"),
    [(refuse, True, "damaged"), (fail, False, "self test"), (name_twice, True, "lungs/6")],
)
async def test_no_mask_is_given_unless_every_model_is_proven(
    spoil: Callable[[Shelf], None], ends: bool, said: str, tmp_path: Path
) -> None:
    shelf = Shelf()
    spoil(shelf)
    async with serving(tmp_path, shelf, "lungs-6", "lungs-5") as (app, client, refusals):
        await until(lambda: app.state.service.readiness.state.value == "broken")
        await until(lambda: "lungs-6" in shelf.made)
        for path in ("/segment", "/v1/segment"):
            assert (await client.post(path, **form())).status_code == 503
        ready = await client.get("/readyz")
        assert ready.status_code == 503
        assert bool(refusals) == ends  # then the process ends, with the sentence
        assert said in (str(refusals[0]) if ends else ready.json()["detail"])


async def test_each_model_is_reloaded_and_rolled_back_by_itself(tmp_path: Path) -> None:
    shelf = Shelf()
    (tmp_path / "lungs-7").mkdir()
    shutil.copy(default_model_folder() / "golden_image.png", tmp_path / "lungs-7")
    (tmp_path / "keys").write_text(key_line("chief", "name=chief", "scopes=admin"))
    async with serving(tmp_path, shelf, "lungs-6", "lungs-5") as (app, client, _):
        admin = create_admin_app(app.state.service, ApiKeys(tmp_path / "keys"))
        transport = httpx.ASGITransport(app=admin)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://localhost", headers=ADMIN
        ) as chief:
            seventh = {"model": str(tmp_path / "lungs-7")}
            done = await chief.post("/admin/reload", json={**seventh, "of": "lungs/5"})
            assert done.json()["served"]["version"] == "7"
            assert await answered_by(client) == "lungs/6"
            assert await answered_by(client, model="lungs/7") == "lungs/7"
            gone = await client.post("/segment", **form(model="lungs/5"))
            assert (gone.status_code, gone.json()["code"]) == (422, "unknown_model")
            twice = await chief.post("/admin/reload", json=seventh)  # of the first
            assert twice.status_code == 409 and "lungs/7" in twice.json()["detail"]
            unknown = await chief.post("/admin/rollback", json={"of": "lungs/5"})
            assert unknown.status_code == 422
            nothing = await chief.post("/admin/rollback")
            assert nothing.status_code == 409
            back = await chief.post("/admin/rollback", json={"of": "lungs/7"})
            assert back.json()["served"]["version"] == "5"
            assert await answered_by(client, model="lungs/5") == "lungs/5"
            status = (await chief.get("/admin/status")).json()
            served = [one["served"]["version"] for one in status["models"]]
            assert (served, status["served"]["version"]) == (["6", "5"], "6")
            assert [one["before"] and one["before"]["version"] for one in status["models"]] == [
                None, "7",
            ]  # fmt: skip


async def test_the_audit_log_names_the_model_that_answered(tmp_path: Path) -> None:
    (tmp_path / "audit-key").write_text("a secret of 16 bytes")
    files = {"audit_log": tmp_path / "a.jsonl", "audit_key_file": tmp_path / "audit-key"}
    async with serving(tmp_path, Shelf(), "lungs-6", "lungs-5", **files) as (_, client, _r):
        await answered_by(client, model="lungs/5")
        await answered_by(client)
        await client.post("/segment", **form(model="Doe^John"))
    written = [one for one in entries_of(tmp_path / "a.jsonl") if one["event"] == "segment"]
    said = [(one["outcome"], one["model"]) for one in written]
    assert said == [("answered", "lungs/5"), ("answered", "lungs/6"), ("unknown_model", None)]
    assert "Doe" not in (tmp_path / "a.jsonl").read_text()


async def test_a_dicom_answer_names_the_weights_of_the_model_that_gave_it(tmp_path: Path) -> None:
    async with serving(tmp_path, Shelf(), "lungs-6", "lungs-5") as (_, client, _r):
        uids = set()
        for version in ("6", "5"):
            answer = await client.post(
                "/segment", files={"image": ("x", as_file(make_xray()))},
                data={"model": f"lungs/{version}"}, headers={"Accept": "application/dicom"},
            )  # fmt: skip
            assert answer.headers["X-Lungseg-Model"] == f"lungs/{version}"
            found = pydicom.dcmread(io.BytesIO(answer.content))
            (algorithm,) = found.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence
            assert algorithm.AlgorithmVersion == version
            digest = f"lungs-{version}".encode().hex().zfill(64)
            assert digest in algorithm.AlgorithmParameters
            assert answer.headers["X-Lungseg-Model-Sha256"] == digest
            uids.add(found.SOPInstanceUID)
        assert len(uids) == 2


async def test_a_queue_that_is_full_is_full_for_every_model(tmp_path: Path) -> None:
    shelf = Shelf(gates={"lungs-6": Gate()})
    settings = {"queue_limit": 1, "max_batch": 1, "devices": "cpu"}
    async with serving(tmp_path, shelf, "lungs-6", "lungs-5", **settings) as (app, client, _):
        at_work = asyncio.create_task(answered_by(client))
        await until(shelf.gates["lungs-6"].entered.is_set)
        waits = asyncio.create_task(answered_by(client))
        await until(lambda: app.state.service.admission.waiting == 1)
        full = await client.post("/segment", **form(model="lungs/5"))
        assert (full.status_code, full.json()["code"]) == (429, "queue_full")
        shelf.gates["lungs-6"].opened.set()
        assert [await at_work, await waits] == ["lungs/6"] * 2
        assert_nothing_is_held(app)


def test_the_setting_is_repeated_or_listed() -> None:
    def folders(arguments: list[str], environment: dict[str, str]) -> list[str | None]:
        found = settings_from(arguments, environment)
        first = None if found.model is None else str(found.model)
        return [first, *map(str, found.further_models)]

    assert folders([], {}) == [None]
    assert folders(["--model", "/a,b"], {}) == ["/a,b"]
    assert folders(["--model", "/a", "--model", "/b", "--model", "/c"], {}) == ["/a", "/b", "/c"]
    assert folders(["--further-models", "/b,/c"], {}) == [None, "/b", "/c"]
    assert folders(["--model", "/a", "--model", "/b", "--further-models", "/c"], {}) == [
        "/a", "/b", "/c",
    ]  # fmt: skip
    environment = {"LUNGSEG_MODEL": "/x", "LUNGSEG_FURTHER_MODELS": "/y,/z"}
    assert folders([], environment) == ["/x", "/y", "/z"]
    assert folders(["--model", "/a"], environment) == ["/a", "/y", "/z"]
    assert folders(["--model", "/a", "--model", "/b"], environment) == ["/a", "/b"]


async def test_the_image_of_another_caller_is_never_answered_by_a_mixture(tmp_path: Path) -> None:
    """Two models at the same time: each answer is its own model's, of its own X-ray."""
    shelf = Shelf()
    async with serving(tmp_path, shelf, "lungs-6", "lungs-5", max_batch=4) as (app, client, _):

        async def ask(seed: int, version: str) -> tuple[int, str, str]:
            answer = await client.post(
                "/segment", files={"image": ("x", png(picture(seed)))},
                data={"model": f"lungs/{version}", "overlay": "false"},
            )  # fmt: skip
            found = json.loads(answer.content)
            assert found["model"]["version"] == version
            return seed, version, found["masks"][0]["png"]

        asked = [ask(seed, version) for seed in range(12) for version in ("6", "5")]
        masks = await asyncio.gather(*asked)
        assert len({mask for _, _, mask in masks}) == 12
        assert max(shelf.made["lungs-6"].batch_sizes) > 1
        assert sum(shelf.made["lungs-5"].batch_sizes) == 12
        assert_nothing_is_held(app)
