"""The client: answers, refusals, and a retry that waits as long as the service asks."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from fake_model import picture, png
from PIL import Image

from benchmarks.service.server_process import RunningServer, running_server
from service.client import Client, SegmentError

GOOD = {"request_id": "r", "masks": [], "warnings": []}


@pytest.fixture(scope="module")
def server(tiny_artifact: Path) -> Iterator[RunningServer]:
    with running_server(tiny_artifact, ["--threads", "1", "--queue-limit", "2"]) as running:
        yield running


def scripted(
    answers: list[httpx.Response | Exception], patience_s: float = 100
) -> tuple[Client, list[float]]:
    """A client whose service gives these answers, and the pauses that it makes."""
    left = iter(answers)
    pauses: list[float] = []

    def handle(request: httpx.Request) -> httpx.Response:
        answer = next(left)
        if isinstance(answer, Exception):
            raise answer
        return answer

    sleep: Callable[[float], None] = pauses.append
    transport = httpx.MockTransport(handle)
    return Client("http://x", transport=transport, sleep=sleep, patience_s=patience_s), pauses


def busy(status: int, retry_after: str) -> httpx.Response:
    return httpx.Response(status, headers={"Retry-After": retry_after}, json={"code": "queue_full"})


def test_a_mask_from_the_real_service(server: RunningServer) -> None:
    boxes = [(0.0, 0.0, 40.5, 40.0), (10.0, 10.0, 90.0, 70.0)]
    with Client(f"http://127.0.0.1:{server.port}") as client:
        found = client.segment(png(picture()), boxes)
        with pytest.raises(SegmentError) as caught:
            client.segment(b"no image")
    assert [mask.box for mask in found.masks] == boxes
    mask = np.asarray(Image.open(io.BytesIO(found.masks[0].png)))
    assert mask.shape == (80, 96) and int((mask > 0).sum()) == found.masks[0].area_px
    assert (caught.value.status, caught.value.code) == (400, "undecodable_image")
    assert caught.value.request_id


def test_overload_is_survived_by_every_caller(server: RunningServer) -> None:
    """Twelve callers, two places: all get their mask in the end."""
    with (
        Client(f"http://127.0.0.1:{server.port}") as client,
        ThreadPoolExecutor(12) as pool,
    ):
        image = png(picture(size=(700, 700)))
        found = list(pool.map(lambda _: client.segment(image), range(36)))
    assert len({one.request_id for one in found}) == 36


def test_it_waits_as_long_as_the_service_asks() -> None:
    client, pauses = scripted([busy(429, "7"), busy(503, "3"), httpx.Response(200, json=GOOD)])
    assert client.segment(b"x").request_id == "r"
    assert 7 <= pauses[0] <= 8.75 and 3 <= pauses[1] <= 3.75


def test_a_broken_connection_is_tried_again_and_patience_ends() -> None:
    client, pauses = scripted([httpx.ReadError("x"), httpx.Response(200, json=GOOD)])
    assert client.segment(b"x").masks == () and len(pauses) == 1
    client, pauses = scripted([busy(429, "20")], patience_s=10)
    with pytest.raises(SegmentError) as caught:
        client.segment(b"x")
    assert (caught.value.status, caught.value.code, pauses) == (429, "queue_full", [])
    client, _ = scripted([httpx.ConnectError("x")], patience_s=0.1)
    with pytest.raises(SegmentError, match="reached"):
        client.segment(b"x")


def test_what_cannot_get_better_is_not_sent_again() -> None:
    answers: list[httpx.Response | Exception] = [httpx.Response(422, json={"code": "invalid_box"})]
    client, pauses = scripted(answers)
    with pytest.raises(SegmentError):
        client.segment(b"x")
    assert pauses == []
