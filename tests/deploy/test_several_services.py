"""Several services behind nginx, by `deploy/gpus/nginx.conf`: none of their failures is a caller's.

The services run on the CPU here, and addresses and paths are those of this machine; nothing else
of the file is changed.
"""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from benchmarks.service.server_process import RunningServer, running_server
from tests.service.fake_model import picture, png
from tests.service.live_service import metric, until, url
from tests.service.node_peers import free_port
from tests.service.test_prometheus import program

CONFIG = Path(__file__).parents[2] / "deploy" / "gpus" / "nginx.conf"
ANSWERED = 'lungseg_requests_total{code="200",route="/segment"}'
Behind = tuple[int, tuple[RunningServer, RunningServer]]


@pytest.fixture
def behind(tiny_artifact: Path, tmp_path: Path) -> Iterator[Behind]:
    """The port of nginx, and the two services behind it."""
    nginx, port, folder = program("nginx"), free_port(), str(tmp_path)
    with ExitStack() as running:
        first, second = (
            running.enter_context(running_server(tiny_artifact, ["--threads", "1"]))
            for _ in range(2)
        )
        text = CONFIG.read_text()
        for given, here in (
            ("gpu0:8000", f"127.0.0.1:{first.port}"),
            ("gpu1:8000", f"127.0.0.1:{second.port}"),
            ("listen 8000", f"listen 127.0.0.1:{port}"),
            ("/tmp/", f"{folder}/"),
            ("error_log stderr", f"error_log {folder}/error.log"),
        ):
            assert given in text
            text = text.replace(given, here)
        as_root = "user root;\n" if os.geteuid() == 0 else ""  # or its workers cannot write here
        (tmp_path / "nginx.conf").write_text(as_root + text)
        command = [nginx, "-c", f"{folder}/nginx.conf", "-e", f"{folder}/error.log"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            until(lambda: _status(port, "/livez") == 200, 20)
            yield port, (first, second)
        finally:
            process.terminate()
            process.wait(20)


def _status(port: int, path: str) -> int:
    try:
        return httpx.get(f"http://127.0.0.1:{port}{path}").status_code
    except httpx.TransportError:
        return 0


def _segmented(port: int, count: int, callers: int = 6) -> list[int]:
    """Statuses of so many requests of several callers at a time."""
    files = {"image": ("x.png", png(picture()), "image/png")}

    def ask(_: int) -> int:
        return httpx.post(f"http://127.0.0.1:{port}/segment", files=files).status_code

    with ThreadPoolExecutor(callers) as pool:
        return list(pool.map(ask, range(count)))


def test_both_services_answer_and_refuse_as_one_does(behind: Behind) -> None:
    port, services = behind
    assert set(_segmented(port, 24)) == {200}
    shares = [metric(one, ANSWERED) for one in services]
    assert sum(shares) == 24 and min(shares) >= 6
    assert _status(port, "/metrics") == 404  # that of one service would say little
    assert _status(port, "/readyz") == 200
    files = {"image": ("x.png", bytes((64 << 20) + 65_536), "image/png")}
    refused = httpx.post(f"http://127.0.0.1:{port}/segment", files=files)
    assert (refused.status_code, refused.json()["code"]) == (413, "payload_too_large")


def test_a_killed_service_costs_no_caller_an_answer(behind: Behind) -> None:
    port, (first, second) = behind
    threading.Timer(0.4, first.process.kill).start()
    assert set(_segmented(port, 60)) == {200}
    assert first.process.wait(10) != 0
    assert metric(second, ANSWERED) >= 30


def test_a_service_that_drains_costs_no_caller_an_answer(behind: Behind) -> None:
    port, (first, second) = behind
    threading.Timer(0.4, first.process.terminate).start()
    assert set(_segmented(port, 60)) == {200}
    assert first.process.wait(30) == 0
    assert httpx.get(url(second, "/readyz")).status_code == 200
