"""A running service never changes its model in silence: files replaced on disk, then kill -9."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path

import httpx
import pytest

from benchmarks.service.server_process import RunningServer, running_server
from tests.service.fake_model import form, picture, png
from tests.service.live_service import compute_process, is_ready, metric, until, url
from tests.tiny_models import write_tiny_artifact

FLAGS = ["--threads", "1", "--recheck-interval-s", "0.5"]


@pytest.fixture(scope="module")
def other_artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another model than `tiny_artifact`, by its weights and its version."""
    return write_tiny_artifact(tmp_path_factory.mktemp("models"), seed=7)


def replace_files(folder: Path, source: Path) -> None:
    """Writes into the files that lie there, as `cp` does: who has them mapped sees it."""
    for path in source.iterdir():
        with (folder / path.name).open("r+b") as file:
            file.write(path.read_bytes())
            file.truncate()


def mask_of(server: RunningServer) -> tuple[str, str]:
    answer = json.loads(server.segment(png(picture()), {"overlay": "false"}).body)
    return answer["model"]["sha256"], answer["masks"][0]["png"]


def changes(server: RunningServer, outcome: str) -> float:
    line = f'lungseg_model_changes_total{{outcome="{outcome}"}} '
    text = httpx.get(url(server, "/metrics")).text
    return float(next(one for one in text.splitlines() if one.startswith(line)).split()[1])


@pytest.fixture
def folder(tiny_artifact: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_artifact, tmp_path / "model"))


def test_replaced_files_change_nothing_and_a_restart_with_them_is_refused(
    folder: Path, tiny_artifact: Path, other_artifact: Path
) -> None:
    with running_server(folder, FLAGS) as server:
        before = mask_of(server)
        replace_files(folder, other_artifact)
        time.sleep(1.5)  # self test and golden image are looked at again, as they were
        assert is_ready(server) and metric(server, "lungseg_compute_restarts_total") == 0
        assert mask_of(server) == before
        os.kill(compute_process(server), signal.SIGKILL)
        until(lambda: changes(server, "refused") > 0)
        refused = httpx.get(url(server, "/readyz"))
        assert refused.status_code == 503
        assert "not those of the start" in refused.json()["detail"]
        assert httpx.post(url(server, "/segment"), **form()).status_code == 503
        replace_files(folder, tiny_artifact)
        until(lambda: is_ready(server))
        assert mask_of(server) == before


def test_a_change_that_is_allowed_is_said(folder: Path, other_artifact: Path) -> None:
    with running_server(folder, [*FLAGS, "--allow-model-change", "true"]) as server:
        before = mask_of(server)
        replace_files(folder, other_artifact)
        os.kill(compute_process(server), signal.SIGKILL)
        until(lambda: changes(server, "allowed") == 1 and is_ready(server))
        assert mask_of(server)[0] not in (before[0], "")
        assert changes(server, "refused") == 0
