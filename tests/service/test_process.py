"""`python -m service` as a process: exit codes, hostile bodies on a socket, and its drain."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import torch

from benchmarks.service.server_process import RunningServer, running_server
from model_store.artifact import read_manifest
from service.pipeline.image_workers import make_worker_pool
from service.settings import Settings
from tests.service.fake_model import form, picture, png
from tests.service.live_service import is_ready, metric, until, url

LIMITS = ["--threads", "1", "--max-upload-bytes", "200000"]
SLOW_UPLOADS = 60
UPLOAD_START = (
    b"POST /segment HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n"
    b"Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
)


@pytest.fixture(scope="module")
def server(tiny_artifact: Path) -> Iterator[RunningServer]:
    with running_server(tiny_artifact, LIMITS) as running:
        yield running


def start(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LUNGSEG_")}
    command = [sys.executable, "-m", "service", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, env=environment, check=False
    )


def assert_one_sentence(done: subprocess.CompletedProcess[str], code: int, *said: str) -> None:
    assert done.returncode == code, done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr + done.stdout
    for part in said:
        assert part in done.stderr


def test_a_port_in_use_ends_with_3() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert_one_sentence(start("--port", port), 3, f"127.0.0.1:{port}", "in use")


def flip_last_byte(folder: Path) -> None:
    data = bytearray((folder / "weights.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "weights.safetensors").write_bytes(data)


def remove_golden_mask(folder: Path) -> None:
    (folder / "golden_mask.png").unlink()


@pytest.mark.parametrize(
    ("damage", "said"),
    [(flip_last_byte, "weights.safetensors"), (remove_golden_mask, "golden_mask.png")],
)
def test_a_damaged_model_ends_with_4(
    damage: Callable[[Path], None], said: str, tiny_artifact: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_artifact, tmp_path / "damaged"))
    damage(folder)
    assert_one_sentence(start("--port", "0", "--model", str(folder)), 4, said)


def test_the_former_name_of_a_setting_gives_a_warning(tmp_path: Path) -> None:
    done = start("--port", "0", "--model", str(tmp_path), "--image-threads", "3")
    said = [json.loads(line) for line in done.stdout.splitlines()]
    warned = [one for one in said if one["event"] == "setting has another name"]
    assert [(one["setting"], one["use"]) for one in warned] == [("image-threads", "image-workers")]


@pytest.mark.parametrize(
    ("settings", "workers"),
    [
        ({"image_threads": 3}, 3),
        ({"image_workers": 2, "image_threads": 3}, 2),
        ({"image_workers": 5}, 5),
    ],
)
def test_the_former_name_counts_where_the_new_one_is_not_given(
    settings: dict[str, int], workers: int
) -> None:
    assert make_worker_pool(Settings(**settings), lambda reason: None).size == workers


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the device")
def test_a_device_that_is_not_there_ends_with_2(tiny_artifact: Path) -> None:
    done = start("--port", "0", "--device", "cuda", "--model", str(tiny_artifact))
    assert_one_sentence(done, 2, "cuda")


def test_a_body_above_the_limit_is_413_and_the_client_reads_why(server: RunningServer) -> None:
    def chunked() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
        for _ in range(60):
            yield b"x" * 100_000

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    segment = url(server, "/segment")
    for response in (
        httpx.post(segment, content=chunked(), headers=headers, timeout=20),
        httpx.post(segment, files={"image": ("a", b"x" * 3_000_000)}, timeout=20),
    ):
        assert (response.status_code, response.json()["code"]) == (413, "payload_too_large")
        assert "200000" in response.json()["detail"]
    assert server.segment(png(picture()), {}).status == 200


def test_hostile_connections_do_not_stop_the_server(server: RunningServer) -> None:
    """Garbage, half a request, many slow uploads: others are still answered at once."""
    hostile = [b"\x00\xff\x16\x03 garbage\r\n\r\n", b"GET /livez HT"]
    connections = []
    for data in [*hostile, *[UPLOAD_START] * SLOW_UPLOADS]:
        connection = socket.create_connection(("127.0.0.1", server.port))
        connection.sendall(data)
        connections.append(connection)
    until(lambda: metric(server, "lungseg_inflight") == SLOW_UPLOADS)
    assert server.segment(png(picture()), {}).status == 200
    for connection in connections:
        connection.close()
    until(lambda: metric(server, "lungseg_cancelled_total") == SLOW_UPLOADS)
    until(lambda: metric(server, "lungseg_inflight") == 0.0)
    assert server.segment(png(picture()), {}).status == 200


def test_while_draining_the_port_says_so_and_what_was_begun_is_answered(
    tiny_artifact: Path,
) -> None:
    request = httpx.Request("POST", "http://localhost/segment", **form())
    body = request.read()
    head = "POST /segment HTTP/1.1\r\nConnection: close\r\n" + "".join(
        f"{name}: {value}\r\n" for name, value in request.headers.items()
    )
    with (
        running_server(tiny_artifact, LIMITS) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=20) as begun,
    ):
        begun.sendall(head.encode() + b"\r\n" + body[:50])
        until(lambda: metric(server, "lungseg_inflight") == 1.0)
        server.process.send_signal(signal.SIGTERM)
        until(lambda: not is_ready(server))
        for response in (
            httpx.get(url(server, "/readyz")),
            httpx.post(url(server, "/segment"), **form()),
        ):
            assert (response.status_code, response.json()["code"]) == (503, "draining")
        begun.sendall(body[50:])
        answer = b"".join(iter(lambda: begun.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 200")
        assert server.process.wait(20) == 0


def test_who_started_it_in_a_terminal_reads_where_and_what_it_serves(tiny_artifact: Path) -> None:
    command = [sys.executable, "-m", "service", "--port", "0", "--greet", "true", "--threads", "1"]
    with subprocess.Popen(
        [*command, "--model", str(tiny_artifact)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "Ctrl+C" in line:
                break
        address = lines[-2].removeprefix("Open ").strip()
        assert httpx.get(f"{address}/readyz", timeout=20).status_code == 200
        assert httpx.get(address, timeout=20).headers["content-type"].startswith("text/html")
        manifest = read_manifest(tiny_artifact)
        named = f"{manifest.name} {manifest.version} ({manifest.weights.sha256[:12]}), int8 by "
        assert lines[-1].startswith(named) and "on 1 CPU thread(s)." in lines[-1]
        ready = next(json.loads(line) for line in lines if '"event": "ready"' in line)
        assert (ready["model"], ready["sha256"]) == (manifest.name, manifest.weights.sha256)
        assert {"version", "engine", "device", "threads"} <= set(ready)
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.wait(30) == 0
