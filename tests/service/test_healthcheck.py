"""The container's health check: 0 when ready, 1 when not, wherever the service listens."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.service.server_process import running_server
from service.healthcheck import ready_url
from service.settings import Settings


@pytest.mark.parametrize(
    ("settings", "url"),
    [
        (Settings(host="0.0.0.0", port=8000), "http://127.0.0.1:8000/readyz"),
        (Settings(host="::", port=9), "http://[::1]:9/readyz"),
        (Settings(host="10.1.2.3", tls_cert=Path("a")), "https://10.1.2.3:8000/readyz"),
    ],
)
def test_it_asks_where_the_service_listens(settings: Settings, url: str) -> None:
    assert ready_url(settings) == url


def checked(port: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "service.healthcheck"], capture_output=True, text=True, check=False,
        env=os.environ | {"LUNGSEG_PORT": str(port)}, timeout=30,
    )  # fmt: skip


def test_a_ready_service_is_healthy_and_an_ended_one_is_not(tiny_artifact: Path) -> None:
    with running_server(tiny_artifact, ["--threads", "1"]) as server:
        assert checked(server.port).returncode == 0
    ended = checked(server.port)
    assert ended.returncode == 1 and "not ready" in ended.stderr
