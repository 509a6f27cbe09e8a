"""Two models in real processes: changed, killed and asked at the same time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest

from benchmarks.service.server_process import RunningServer, running_server
from model_store.artifact import read_manifest
from tests.service.fake_model import picture, png
from tests.service.live_service import compute_processes, until, url
from tests.service.node_peers import free_port
from tests.service.test_keys import line as key_line
from tests.tiny_models import write_tiny_artifact

Seen = tuple[int, str, int, bytes]
"""Seed of the X-ray, the model asked, the status, the body."""


class Callers:
    """Callers of both models, who ask without a pause, each for an X-ray of its own."""

    def __init__(self, server: RunningServer, wanted: list[str]) -> None:
        self.answers: list[Seen] = []
        self._server = server
        self._is_over = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(seed, model))
            for seed, model in enumerate(wanted)
        ]
        for thread in self._threads:
            thread.start()

    def _ask(self, seed: int, model: str) -> None:
        image = png(picture(seed % 2))
        while not self._is_over.is_set():
            answer = self._server.segment(image, {"overlay": "false", "model": model})
            self.answers.append((seed % 2, model, answer.status, answer.body))

    def end(self) -> list[Seen]:
        self._is_over.set()
        for thread in self._threads:
            thread.join()
        return self.answers


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three models of one name."""
    return [
        write_tiny_artifact(tmp_path_factory.mktemp("models"), seed=number, version=str(number))
        for number in (1, 2, 3)
    ]


def masks_by_model(answers: list[Seen]) -> dict[tuple[int, str], set[str]]:
    """Return the masks by X-ray and digest of the model that says it gave them."""
    masks: dict[tuple[int, str], set[str]] = {}
    for seed, _, status, body in answers:
        if status == 200:
            answer = json.loads(body)
            key = (seed, answer["model"]["sha256"])
            masks.setdefault(key, set()).add(answer["masks"][0]["png"])
    return masks


def unready(server: RunningServer) -> list[str]:
    """Names of the models that give no masks now."""
    listed = httpx.get(url(server, "/v1/models")).json()["models"]
    named = [(one["model"], one["is_ready"]) for one in listed]
    return [f"{model['name']}/{model['version']}" for model, is_there in named if not is_there]


def test_one_of_two_models_is_changed_under_load_and_one_dies(
    folders: list[Path], tmp_path: Path
) -> None:
    digests = [read_manifest(folder).weights.sha256 for folder in folders]
    (tmp_path / "keys").write_text(key_line("chief", "name=chief", "scopes=admin"))
    (tmp_path / "key").write_text("chief\n")
    port = free_port()
    flags = ["--threads", "1", "--fronts", "2", "--admin-port", str(port)]
    flags += ["--admin-keys-file", f"{tmp_path}/keys"]
    flags += ["--model", str(folders[0]), "--model", str(folders[1])]

    def admin(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "service.admin", *arguments]
        command += ["--key-file", f"{tmp_path}/key", "--port", str(port)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

    with running_server(None, flags) as server:
        names = [one["model"]["version"] for one in server.readiness["models"]]
        assert names == ["1", "2"]
        callers = Callers(server, ["tiny/1", "tiny/1", "tiny", "tiny"])
        try:
            changed = admin("reload", "--of", "tiny/2", "--model", str(folders[2]))
            assert changed.returncode == 0, changed.stderr
            back = admin("rollback", "--of", "tiny/3")
            assert back.returncode == 0, back.stderr
        finally:
            answers = callers.end()
        assert answers and {status for _, _, status, _ in answers} == {200}  # 0 lost
        second = Callers(server, ["tiny/2", "tiny/2", "tiny/1", "tiny/1"])
        try:
            until(lambda: len(second.answers) > 8)
            before = compute_processes(server)
            os.kill(min(before), signal.SIGKILL)
            until(lambda: len(unready(server)) == 1)
            (gone,) = unready(server)
            until(lambda: not unready(server))
        finally:
            later = second.end()
        assert set(before) - {min(before)} <= set(compute_processes(server))  # the others run on
        failed = [
            (model, json.loads(body)["code"]) for _, model, status, body in later if status != 200
        ]
        assert set(failed) <= {(gone, "compute_lost"), (gone, "not_ready")}
        text = httpx.get(url(server, "/metrics")).text
    for seed, model, status, body in [*answers, *later]:
        if status == 200:
            wanted = digests[1 if model == "tiny/2" else 0]
            assert json.loads(body)["model"]["sha256"] == wanted, (seed, model)
    masks = masks_by_model([*answers, *later])
    assert all(len(found) == 1 for found in masks.values())  # each model's own, always
    for seed in range(2):
        assert masks[seed, digests[0]] != masks[seed, digests[1]]
    counted = sum(
        float(line.split()[1])
        for line in text.splitlines()
        if line.startswith('lungseg_model_requests_total{code="200"')
    )
    assert counted == sum(status == 200 for _, _, status, _ in [*answers, *later])
