"""`python -m service` as a process: start, exit codes, hostile bodies on a socket, SIGTERM."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

from benchmarks.server_process import RunningServer, running_server
from tests.service.fake_model import form, picture, png
from tests.service.tiny_model import write_tiny_model

ROOT = Path(__file__).parent.parent.parent
FEW = ["--threads", "1", "--max-upload-bytes", "200000", "--queue-limit", "40"]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stored model that passes its self test."""
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny" / "1")


@pytest.fixture(scope="module")
def server(stored: Path) -> Iterator[RunningServer]:
    """One server for the tests that leave it running."""
    with running_server(stored, FEW) as started:
        yield started


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the service until it ends by itself."""
    command = [sys.executable, "-m", "service", *arguments]
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("LUNGSEG_")}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, env=inherited | environment, cwd=ROOT
    )


def assert_one_sentence(done: subprocess.CompletedProcess[str], code: int, *said: str) -> None:
    """An exit code and one line on standard error."""
    assert done.returncode == code, done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr + done.stdout
    for part in said:
        assert part in done.stderr


def test_a_bad_setting_ends_with_2() -> None:
    """From a flag or a variable."""
    assert_one_sentence(run("--port", "abc"), 2, "--port")
    assert_one_sentence(run(LUNGSEG_MAX_BATCH="0"), 2, "LUNGSEG_MAX_BATCH")


def test_a_port_in_use_ends_with_3() -> None:
    """With the address."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert_one_sentence(run("--port", port), 3, f"127.0.0.1:{port}", "in use")


def test_a_refused_model_ends_with_4(stored: Path, tmp_path: Path) -> None:
    """Missing folder; another weights file than the manifest says."""
    missing = tmp_path / "none"
    assert_one_sentence(run("--port", "0", "--model", str(missing)), 4, "manifest.json", "missing")
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for file in stored.iterdir():
        data = bytearray(file.read_bytes())
        if file.suffix == ".safetensors":
            data[-1] ^= 1
        (damaged / file.name).write_bytes(data)
    done = run("--port", "0", "--model", str(damaged))
    assert_one_sentence(done, 4, "weights.safetensors", "sha256")


def test_the_real_model_answers_with_its_own_masks(server: RunningServer) -> None:
    """Ready by its golden mask; the same bytes again for the same image."""
    assert server.readiness["agreement"] == 1.0
    assert server.readiness["model"]["name"] == "tiny-test"
    fields = {"bbox": "8,8,90,70", "convention": "whole_lung"}
    answers = [server.segment(png(picture(1)), fields) for _ in range(2)]
    bodies = [json.loads(answer.body) for answer in answers]
    assert [answer.status for answer in answers] == [200, 200]
    assert bodies[0]["masks"][0]["png"] == bodies[1]["masks"][0]["png"]
    assert bodies[0]["latency_ms"]["encode_image"] > 0


def test_masks_do_not_depend_on_the_load(server: RunningServer) -> None:
    """Alone and sixteen at a time, byte for byte."""
    images = [png(picture(seed, (64 + seed, 96))) for seed in range(24)]

    def mask(data: bytes) -> bytes:
        answer = server.segment(data, {}, accept="image/png")
        assert answer.status == 200
        return answer.body

    alone = [mask(data) for data in images]
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(mask, images)) == alone
    assert len(set(alone)) > 12  # the comparison means something


def test_a_chunked_body_above_the_limit_is_413(server: RunningServer) -> None:
    """Counted while receiving; the client still reads the answer; the server goes on."""
    boundary = "b"
    head = '--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'

    def endless() -> Iterator[bytes]:
        yield head.encode()
        for _ in range(60):
            yield b"x" * 100_000

    url = f"http://127.0.0.1:{server.port}/segment"
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    chunked = httpx.post(url, content=endless(), headers=headers, timeout=20)
    whole = httpx.post(url, files={"image": ("a", b"x" * 3_000_000)}, timeout=20)
    for response in (chunked, whole):
        assert (response.status_code, response.json()["code"]) == (413, "payload_too_large")
        assert "200000" in response.json()["detail"]
    assert server.segment(png(picture()), {}).status == 200


def test_hostile_connections_do_not_stop_the_server(server: RunningServer) -> None:
    """Garbage, half a request, many slow uploads: others are still answered."""
    open_sockets = []
    start = (
        b"POST /segment HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n"
        b"Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
    )
    for data in [b"\x00\xff\x16\x03 garbage\r\n\r\n", b"GET /livez HT", *[start] * 60]:
        one = socket.create_connection(("127.0.0.1", server.port))
        one.sendall(data)
        open_sockets.append(one)
    assert server.segment(png(picture()), {}).status == 200
    for one in open_sockets:
        one.close()
    assert server.segment(png(picture()), {}).status == 200
    metrics = httpx.get(f"http://127.0.0.1:{server.port}/metrics").text
    deadline = time.monotonic() + 5
    while "lungseg_inflight 0.0" not in metrics and time.monotonic() < deadline:
        time.sleep(0.05)
        metrics = httpx.get(f"http://127.0.0.1:{server.port}/metrics").text
    assert "lungseg_inflight 0.0" in metrics
    assert "lungseg_cancelled_total 60.0" in metrics


def test_sigterm_drains_and_ends_with_0(stored: Path, tmp_path: Path) -> None:
    """A running request is answered, a new one is refused, the exit code is 0."""
    log = (tmp_path / "log").open("w+")
    command = [sys.executable, "-m", "service", "--port", "0", "--model", str(stored), *FEW]
    process = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT)
    try:
        url = wait_for(process, tmp_path / "log")
        slow = socket.create_connection(("127.0.0.1", httpx.URL(url).port or 0))
        built = httpx.Request("POST", f"{url}/segment", **form(np.full((64, 64), 90, np.uint8)))
        body = built.read()
        head = "POST /segment HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + "".join(
            f"{name}: {value}\r\n" for name, value in built.headers.items() if name != "host"
        )
        slow.sendall(head.encode() + b"\r\n" + body[:50])
        until_inflight(url)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        ready = httpx.get(f"{url}/readyz")
        refused = httpx.post(f"{url}/segment", **form())
        assert (ready.status_code, ready.json()["code"]) == (503, "draining")
        assert (refused.status_code, refused.json()["code"]) == (503, "draining")
        slow.sendall(body[50:])
        slow.settimeout(20)
        answer = b""
        while data := slow.recv(65536):
            answer += data
        assert answer.startswith(b"HTTP/1.1 200")
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        log.close()
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [line["event"] for line in lines if line["logger"] == "service.process"] == [
        "listening",
        "stopped",
    ]


def wait_for(process: subprocess.Popen[bytes], log: Path) -> str:
    """Waits until the server is ready; returns its address."""
    stop_by = time.monotonic() + 60
    while time.monotonic() < stop_by and process.poll() is None:
        lines = [json.loads(line) for line in log.read_text().splitlines() if line.endswith("}")]
        if any(line["event"] == "ready" for line in lines):
            return str(next(line["url"] for line in lines if line["event"] == "listening"))
        time.sleep(0.05)
    raise AssertionError(log.read_text())


def until_inflight(url: str) -> None:
    """Waits until one segmentation request is being worked on."""
    stop_by = time.monotonic() + 10
    while time.monotonic() < stop_by:
        if "lungseg_inflight 1.0" in httpx.get(f"{url}/metrics").text:
            return
        time.sleep(0.02)
    raise AssertionError("no request is running")
