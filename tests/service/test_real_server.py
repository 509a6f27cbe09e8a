"""The real process on loopback with a tiny model: started, asked, loaded, stopped."""

from __future__ import annotations

import base64
import http.client
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.service.same_masks_under_load import WorkerKiller, compare
from benchmarks.service.server_process import RunningServer, running_server
from tests.service.live_service import compute_process, is_ready, metric, until


def noise_png(seed: int, side: int = 96) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side + seed % 7), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def server(tiny_artifact: Path) -> Iterator[RunningServer]:
    with running_server(tiny_artifact, ["--threads", "1"]) as running:
        yield running


def get(server: RunningServer, path: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_a_mask_comes_back_in_every_form(server: RunningServer) -> None:
    image = noise_png(3)
    answer = server.segment(image, {"bbox": "1,2,90.5,80", "overlay": "true"})
    assert answer.status == 200
    body = json.loads(answer.body)
    mask = np.asarray(Image.open(io.BytesIO(base64.b64decode(body["masks"][0]["png"]))))
    assert mask.shape == (body["image"]["height"], body["image"]["width"]) == (96, 99)
    assert set(np.unique(mask)) <= {0, 255}
    assert body["masks"][0]["area_px"] == int((mask == 255).sum())
    assert body["masks"][0]["bbox"] == [1, 2, 90.5, 80]
    assert Image.open(io.BytesIO(base64.b64decode(body["overlay_png"]))).size == (99, 96)
    png = server.segment(image, {"bbox": "1,2,90.5,80"}, accept="image/png")
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png.body))), mask)


def test_masks_do_not_depend_on_the_load(server: RunningServer) -> None:
    different, failed = compare(server, [noise_png(seed) for seed in range(24)], callers=8)
    assert (different, failed) == (0, 0)


def test_masks_do_not_change_while_workers_are_killed(server: RunningServer) -> None:
    """Lost are only answers in a killed worker's hands, and these come when sent again."""
    killer = WorkerKiller(server, every_s=0.1)
    images = [noise_png(seed, side=700) for seed in range(40)]
    different, failed = compare(server, images, callers=8, killer=killer)
    assert (different, failed) == (0, 0)
    assert killer.killed > 2
    killed = get(server, "/metrics")[1].decode().split('workers_ended_total{reason="killed"} ')[1]
    assert float(killed.split()[0]) > 2
    assert "lungseg_compute_restarts_total 0.0" in get(server, "/metrics")[1].decode()


def test_small_answers_on_one_connection_are_not_held_back(server: RunningServer) -> None:
    """Without TCP_NODELAY each waits 40 ms for the caller to acknowledge its headers."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    times_s = []
    for _ in range(30):
        started = time.perf_counter()
        connection.request("GET", "/v1/model")
        connection.getresponse().read()
        times_s.append(time.perf_counter() - started)
    connection.close()
    assert min(times_s[15:]) < 0.03  # the least disturbed by other work on the machine


def test_status_routes_tell_the_truth(server: RunningServer) -> None:
    assert get(server, "/livez")[0] == get(server, "/health")[0] == 200
    status, body = get(server, "/readyz")
    ready = json.loads(body)
    assert status == 200 and ready["device"] == "cpu" and ready["agreement"] == 1.0
    assert b"lungseg_ready 1.0" in get(server, "/metrics")[1]
    assert b'"name":"tiny"' in get(server, "/v1/model")[1]
    page = get(server, "/docs")[1].decode()
    assert "https://" not in page and "http://" not in page


def test_bad_input_is_refused_and_the_server_keeps_serving(server: RunningServer) -> None:
    refused = {
        b"": 400,
        b"hello": 400,
        noise_png(1)[:200]: 400,
    }
    for data, status in refused.items():
        answer = server.segment(data, {})
        problem = json.loads(answer.body)
        assert answer.status == status == problem["status"]
        assert problem["error"] == problem["detail"] and problem["request_id"]
    for box in ("1,2,3,4,5", "nan,0,5,5", "5,5,1,1", "0,0,1000,10", "-1,0,5,5", "a,b,c,d"):
        assert server.segment(noise_png(1), {"bbox": box}).status == 422
    assert server.segment(noise_png(1), {"boxx": "1,2,3,4"}).status == 422
    assert server.segment(noise_png(1), {}).status == 200


def start(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LUNGSEG_")}
    return subprocess.run(
        [sys.executable, "-m", "service", "--port", "0", *arguments],
        env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--model", "no/such/folder"], 4, "manifest.json is missing"),
        (["--max-pixels", "many"], 2, "max"),
        (["--device", "tpu"], 2, "device"),
    ],
)
def test_a_wrong_start_is_one_sentence_and_an_exit_code(
    arguments: list[str], code: int, said: str
) -> None:
    result = start(arguments)
    assert result.returncode == code
    assert said in result.stderr and "Traceback" not in result.stderr


def test_sigterm_finishes_what_was_accepted_and_exits_0(tiny_artifact: Path) -> None:
    statuses: list[int] = []
    with running_server(tiny_artifact, ["--threads", "1"]) as server:
        child = compute_process(server)
        os.kill(child, signal.SIGSTOP)  # so that all three are under way when the signal comes
        callers = [
            threading.Thread(
                target=lambda: statuses.append(server.segment(noise_png(5), {}).status)
            )
            for _ in range(3)
        ]
        for caller in callers:
            caller.start()
        until(lambda: metric(server, "lungseg_inflight") == 3)
        server.process.send_signal(signal.SIGTERM)
        until(lambda: not is_ready(server))
        os.kill(child, signal.SIGCONT)
        for caller in callers:
            caller.join(30)
        assert server.process.wait(30) == 0
    assert statuses == [200, 200, 200]
