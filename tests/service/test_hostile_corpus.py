"""A real server is sent every hostile file: documented refusals, no death, bounded memory."""

from __future__ import annotations

import base64
import io
import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.service.server_process import RunningServer, running_server
from tests.service.hostile_files import HostileFile, corpus

CORPUS = corpus()
MOST_GROWTH_BYTES = 200 << 20
SLOWEST_S = 30.0


@pytest.fixture(scope="module")
def server(tiny_artifact: Path) -> Iterator[RunningServer]:
    with running_server(tiny_artifact, ["--threads", "1"]) as running:
        yield running


def resident_bytes(server: RunningServer) -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


@pytest.mark.parametrize("file", CORPUS, ids=lambda file: file.name)
def test_every_file_gets_its_documented_answer(server: RunningServer, file: HostileFile) -> None:
    answer = server.segment(file.data, {})
    assert answer.seconds < SLOWEST_S
    body = json.loads(answer.body)
    if file.codes:
        assert 400 <= answer.status < 500, body
        assert body["code"] in file.codes, body
        assert file.name not in answer.body.decode()
    else:
        assert answer.status == 200, body
        mask = Image.open(io.BytesIO(base64.b64decode(body["masks"][0]["png"])))
        assert mask.size == (96, 96)


def test_the_process_survives_all_of_them_with_bounded_memory(server: RunningServer) -> None:
    for file in CORPUS[:3]:
        server.segment(file.data, {})
    before, compute = resident_bytes(server), _compute_restarts(server)
    for file in CORPUS:
        server.segment(file.data, {})
    assert server.process.poll() is None
    assert resident_bytes(server) - before < MOST_GROWTH_BYTES
    assert _compute_restarts(server) == compute == 0
    good = next(file for file in CORPUS if file.name == "deep.png")
    assert server.segment(good.data, {}).status == 200


def _compute_restarts(server: RunningServer) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=10) as page:
        lines = page.read().decode().splitlines()
    return next(
        float(x.split()[1]) for x in lines if x.startswith("lungseg_compute_restarts_total")
    )
