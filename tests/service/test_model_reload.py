"""Another model and back while the service runs: nothing is lost, no answer is of two models."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from benchmarks.service.server_process import RunningServer, running_server
from model_store.artifact import read_manifest
from model_store.model_index import default_model_folder
from service.app import create_app
from service.audit.chain import entries_of
from service.compute.model_handle import ModelRefusedError
from service.http.admin_app import create_admin_app
from service.http.keys import ApiKeys
from service.settings import Settings, SettingsError
from service.settings_checks import require_admin_keys
from tests.service.fake_model import (
    FAILED,
    FakeInfo,
    FakePredictor,
    Gate,
    form,
    picture,
    png,
    running,
    sample,
    until,
)
from tests.service.in_process_pool import in_process_pool
from tests.service.node_peers import free_port
from tests.service.test_keys import line as key_line
from tests.tiny_models import write_tiny_artifact

ADMIN = {"X-API-Key": "chief"}


class Folders:
    """Makes a fake model of the name of the folder; each has another version."""

    def __init__(self) -> None:
        self.gates: dict[str, Gate] = {}
        self.made: list[FakePredictor] = []
        self.closed: list[str] = []

    def make(self, settings: Settings) -> Any:
        name = "first" if settings.model is None else settings.model.name
        if name == "refused":
            raise ModelRefusedError("The weights of refused are damaged.")
        gate = self.gates.get(name)
        folders = self

        class Closing(FakePredictor):
            def close(self) -> None:
                folders.closed.append(name)

        info = replace(FakeInfo(), name=name, sha256=name.encode().hex().ljust(64, "0"))
        predictor = Closing(gate.hold, info) if gate is not None else Closing(info=info)
        if name == "failing":
            predictor.test = lambda: FAILED
        self.made.append(predictor)
        return predictor


@asynccontextmanager
async def operated(
    tmp_path: Path, folders: Folders
) -> AsyncGenerator[tuple[FastAPI, httpx.AsyncClient, httpx.AsyncClient], None]:
    """A running app, its callers' client and its operator's."""
    golden = default_model_folder() / "golden_image.png"
    for name in ("second", "third", "slow"):
        (tmp_path / name).mkdir()
        shutil.copy(golden, tmp_path / name)
    app = create_app(Settings(), predictor_factory=folders.make, pool_factory=in_process_pool)
    (tmp_path / "keys").write_text(
        f"{key_line('chief', 'name=chief', 'scopes=admin')}\n{key_line('caller')}\n"
    )
    admin = create_admin_app(app.state.service, ApiKeys(tmp_path / "keys"))
    transport = httpx.ASGITransport(app=admin)
    async with (
        running(app) as client,
        httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=ADMIN) as chief,
    ):
        yield app, client, chief


async def model_of(client: httpx.AsyncClient) -> str:
    answer = await client.post("/segment", **form())
    assert answer.status_code == 200, answer.text
    return str(answer.json()["model"]["name"])


@pytest.mark.anyio
async def test_reload_and_rollback_while_a_request_is_at_the_old_model(tmp_path: Path) -> None:
    folders = Folders()
    folders.gates["first"] = Gate()
    async with operated(tmp_path, folders) as (app, client, chief):
        held = asyncio.create_task(model_of(client))
        await until(folders.gates["first"].entered.is_set)
        changed = await chief.post("/admin/reload", json={"model": str(tmp_path / "second")})
        assert changed.status_code == 200, changed.text
        assert changed.json()["served"]["name"] == "second"
        assert changed.json()["before"]["name"] == "first"
        assert await model_of(client) == "second"
        assert (await client.get("/readyz")).json()["model"]["name"] == "second"
        assert not held.done()
        folders.gates["first"].opened.set()
        assert await held == "first"
        back = await chief.post("/admin/rollback")
        assert back.json()["served"]["name"] == "first"
        assert await model_of(client) == "first"
        text = (await client.get("/metrics")).text
        assert 'lungseg_model_info{device="cpu",name="first"' in text
        assert 'lungseg_model_info{device="cpu",name="second"' not in text
        assert len(folders.made) == 2 and not folders.closed
        assert sample(app, "lungseg_model_reloads_total", outcome="done") == 2


@pytest.mark.anyio
async def test_the_one_before_the_last_is_ended_when_its_requests_are(tmp_path: Path) -> None:
    folders = Folders()
    folders.gates["first"] = Gate()
    async with operated(tmp_path, folders) as (_, client, chief):
        held = asyncio.create_task(model_of(client))
        await until(folders.gates["first"].entered.is_set)
        for name in ("second", "third"):
            changed = await chief.post("/admin/reload", json={"model": str(tmp_path / name)})
            assert changed.status_code == 200
        await asyncio.sleep(0.3)
        assert not folders.closed
        folders.gates["first"].opened.set()
        assert await held == "first"
        await until(lambda: folders.closed == ["first"])
        status = (await chief.get("/admin/status")).json()
    assert (status["served"]["name"], status["before"]["name"]) == ("third", "second")


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("name", "said"), [("refused", "are damaged"), ("failing", "failed its self test")]
)
async def test_a_model_that_is_not_proven_changes_nothing(
    name: str, said: str, tmp_path: Path
) -> None:
    folders = Folders()
    async with operated(tmp_path, folders) as (app, client, chief):
        refused = await chief.post("/admin/reload", json={"model": str(tmp_path / name)})
        assert (refused.status_code, refused.json()["code"]) == (409, "reload_refused")
        assert said in refused.json()["detail"]
        assert await model_of(client) == "first"
        assert (await client.get("/readyz")).status_code == 200
        nothing = await chief.post("/admin/rollback")
        assert (nothing.status_code, nothing.json()["code"]) == (409, "reload_refused")
        assert sample(app, "lungseg_model_reloads_total", outcome="refused") == 2


@pytest.mark.anyio
async def test_the_admin_port_asks_for_a_key_of_its_scope(tmp_path: Path) -> None:
    async with operated(tmp_path, Folders()) as (_, client, chief):
        for key, status in (("", 401), ("caller", 403), ("guess", 403)):
            for method, path in (
                ("GET", "/admin/status"), ("POST", "/admin/reload"), ("POST", "/admin/rollback"),
            ):  # fmt: skip
                answer = await chief.request(method, path, headers={"X-API-Key": key})
                assert answer.status_code == status, (key, path)
        for body in ("[]", '{"folder": "/x"}', '{"model": "relative"}', "x" * 20_000, "{"):
            wrong = await chief.post("/admin/reload", content=body)
            assert (wrong.status_code, wrong.json()["code"]) == (422, "invalid_field")
        assert (await client.post("/admin/reload", headers=ADMIN)).status_code == 404


def test_an_admin_port_needs_keys(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--admin-keys-file"):
        require_admin_keys(Settings(admin_port=0))
    require_admin_keys(Settings(admin_port=0, admin_keys_file=tmp_path / "a"))
    require_admin_keys(Settings(admin_port=0, api_keys_file=tmp_path / "a"))


class Callers:
    """Callers who ask without a pause, each for an X-ray of its own."""

    def __init__(self, server: RunningServer, count: int) -> None:
        self.answers: list[tuple[int, int, bytes]] = []
        self._server = server
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(n,)) for n in range(count)]
        for thread in self._threads:
            thread.start()

    def _ask(self, seed: int) -> None:
        image = png(picture(seed))
        while not self._is_over.is_set():
            answer = self._server.segment(image, {"overlay": "false"})
            self.answers.append((seed, answer.status, answer.body))

    def end(self) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()


def test_under_load_nothing_is_lost_and_no_answer_is_of_two_models(
    tiny_artifact: Path, tmp_path: Path
) -> None:
    """The real processes, the command of the operator, and the files of the first model gone."""
    first = Path(shutil.copytree(tiny_artifact, tmp_path / "first"))
    second = write_tiny_artifact(tmp_path / "models", seed=7)
    digests = [read_manifest(folder).weights.sha256 for folder in (first, second)]
    (tmp_path / "keys").write_text(key_line("chief", "name=chief", "scopes=admin"))
    (tmp_path / "key").write_text("chief\n")
    (tmp_path / "audit-key").write_text("a secret of 16 bytes")
    port = free_port()
    flags = ["--threads", "1", "--admin-port", str(port)]
    flags += ["--admin-keys-file", f"{tmp_path}/keys", "--audit-log", f"{tmp_path}/a.jsonl"]
    flags += ["--audit-key-file", f"{tmp_path}/audit-key"]

    def admin(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "service.admin", *arguments]
        command += ["--key-file", f"{tmp_path}/key", "--port", str(port)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

    with running_server(first, flags) as server:
        callers = Callers(server, 3)
        try:
            reloaded = admin("reload", "--model", str(second))
            assert reloaded.returncode == 0, reloaded.stderr
            assert f"served: tiny 1 ({digests[1]}) on cpu" in reloaded.stdout
            shutil.rmtree(first)
            rolled_back = admin("rollback")
            assert f"served: tiny 1 ({digests[0]}) on cpu" in rolled_back.stdout
            refused = admin("reload")  # of the folder that is gone
            assert refused.returncode == 1 and "manifest.json" in refused.stderr
            assert admin("rollback").returncode == 0
        finally:
            callers.end()
        status = admin("status")
        assert f"served: tiny 1 ({digests[1]})" in status.stdout
        masks: dict[tuple[int, str], set[str]] = {}
        for seed, code, body in callers.answers:
            assert code == 200, body
            answer = json.loads(body)
            key = (seed, answer["model"]["sha256"])
            masks.setdefault(key, set()).add(answer["masks"][0]["png"])
    assert {digest for _, digest in masks} == set(digests)
    assert all(len(found) == 1 for found in masks.values())  # each model's own, always
    for seed in range(3):
        assert masks[seed, digests[0]] != masks[seed, digests[1]]
    events = [one for one in entries_of(tmp_path / "a.jsonl") if one["event"] != "segment"]
    said = [(one["event"], one.get("outcome"), one.get("key")) for one in events]
    assert said == [
        ("begun", None, None), ("reload", "done", "chief"), ("rollback", "done", "chief"),
        ("reload", "refused", "chief"), ("rollback", "done", "chief"),
    ]  # fmt: skip
    assert admin("status").returncode == 2
