"""The container's health check: 0 when ready, 1 when not, wherever the service listens."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
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


FIRST_PROCESS = """
import subprocess, sys
sys.exit(subprocess.Popen([sys.executable, "-m", "service", *sys.argv[1:]]).wait())
"""


@pytest.fixture
def container(tiny_artifact: Path) -> Iterator[tuple[subprocess.Popen[bytes], int, int]]:
    """A service below a first process, as an init starts it: both, and the port."""
    if os.geteuid() != 0:
        pytest.skip("no root: the restart of a frozen process was NOT tried")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    command += [sys.executable, "-c", FIRST_PROCESS, "--model", str(tiny_artifact)]
    process = subprocess.Popen([*command, "--port", str(port), "--threads", "1"])
    try:
        first = _only_child(process.pid)
        _only_child(first)
        yield process, first, port
    finally:
        process.kill()
        process.wait()


def _only_child(pid: int) -> int:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    stop_by = time.monotonic() + 20
    while not (found := path.read_text().split()):
        assert time.monotonic() < stop_by
        time.sleep(0.05)
    return int(found[0])


def checked_inside(first: int, port: int, folder: Path) -> subprocess.CompletedProcess[str]:
    command = ["nsenter", f"--target={first}", "--pid", "--mount", sys.executable, "-m"]
    return subprocess.run(
        [*command, "service.healthcheck", "--restart-frozen", "--timeout-s", "1"],
        capture_output=True, text=True, check=False, timeout=60,
        env=os.environ | {"LUNGSEG_PORT": str(port), "TMPDIR": str(folder)},
    )  # fmt: skip


def test_a_frozen_service_is_ended_by_the_third_check_and_no_other_is(
    container: tuple[subprocess.Popen[bytes], int, int], tmp_path: Path
) -> None:
    process, first, port = container
    stop_by = time.monotonic() + 60
    while checked_inside(first, port, tmp_path).returncode:
        assert time.monotonic() < stop_by and process.poll() is None
    service = _only_child(first)
    os.kill(service, signal.SIGSTOP)
    for _ in range(2):
        assert checked_inside(first, port, tmp_path).returncode == 1
    os.kill(service, signal.SIGCONT)
    assert checked_inside(first, port, tmp_path).returncode == 0  # begins again
    os.kill(service, signal.SIGSTOP)
    for _ in range(2):
        assert "frozen" not in checked_inside(first, port, tmp_path).stderr
    assert process.poll() is None
    assert "frozen: no answer to 3 checks" in checked_inside(first, port, tmp_path).stderr
    assert process.wait(20) != 0  # Docker starts it again


def test_a_service_that_is_not_there_is_not_frozen(tmp_path: Path) -> None:
    environment = os.environ | {"LUNGSEG_PORT": "1", "TMPDIR": str(tmp_path)}
    for _ in range(4):
        done = subprocess.run(
            [sys.executable, "-m", "service.healthcheck", "--restart-frozen"],
            capture_output=True, text=True, check=False, env=environment, timeout=30,
        )  # fmt: skip
        assert done.returncode == 1 and "frozen" not in done.stderr
