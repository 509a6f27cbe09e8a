"""The service over replicas by Ray Serve: equal masks, no request lost by a new model or a kill."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.service.server_process import running_server
from model_store.model_index import default_model
from tests.service.archive.process_tree import descendants
from training.phantom.drawing import draw_phantom

ROOT = Path(__file__).parents[3]
OTHER_MODEL = next((ROOT / "model_store" / "models" / "cxr-lung-tiny-w2").iterdir())
DRIVER = "tests.service.ray_serve.serve_driver"
XRAYS, CALLERS = 4, 3


@dataclass
class Cluster:
    """A running Ray Serve.

    Attributes:
        driver: the process that deploys.
        port: where it answers.
    """

    driver: subprocess.Popen[str]
    port: int

    def deploy(self, autoscaling: dict[str, Any] | None = None, **settings: str) -> None:
        """Deploys the application with these settings and waits until all replicas have them."""
        assert self.driver.stdin is not None and self.driver.stdout is not None
        self.driver.stdin.write(json.dumps(config(self.port, settings, autoscaling)) + "\n")
        self.driver.stdin.flush()
        lines = iter(self.driver.stdout.readline, "")  # Ray writes lines of its own between
        assert any(line.strip() == "deployed" for line in lines), "the driver ended"

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=60)

    def replicas(self) -> list[int]:
        found = descendants(self.driver.pid).items()
        return [pid for pid, name in found if "ServeReplica:lungseg:lungseg" in name]


def config(
    port: int, settings: dict[str, str], autoscaling: dict[str, Any] | None = None
) -> dict[str, Any]:
    """What `deploy/ray/serve.yaml` says, with two small replicas."""
    two_replicas = {"num_replicas": 2}
    return {
        "http_options": {"host": "127.0.0.1", "port": port},
        "applications": [
            {
                "name": "lungseg",
                "route_prefix": "/",
                "import_path": "service.ray_app:app",
                "args": {"threads": "1", "image_workers": "1", **settings},
                "deployments": [
                    {
                        "name": "lungseg",
                        "ray_actor_options": {"num_cpus": 0.5},
                        **({"autoscaling_config": autoscaling} if autoscaling else two_replicas),
                    }
                ],
            }
        ],
    }


@dataclass
class Load:
    """What callers were answered meanwhile."""

    statuses: Counter[int] = field(default_factory=Counter)
    masks: dict[tuple[str, int], set[str]] = field(default_factory=dict)
    retried: int = 0
    unanswered: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


def xray(number: int) -> bytes:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(draw_phantom(number, (256, 256)).image).save(buffer, "PNG")
    return buffer.getvalue()


def segment(client: httpx.Client, image: bytes) -> httpx.Response:
    return client.post("/segment", files={"image": image}, data={"overlay": "false"})


def digest_of(answer: dict[str, Any]) -> str:
    return hashlib.sha256(base64.b64decode(answer["masks"][0]["png"])).hexdigest()


@contextmanager
def load_on(cluster: Cluster, callers: int = CALLERS) -> Iterator[Load]:
    """Callers send X-rays all the time within the block; what is retryable they send again."""
    load, stop = Load(), threading.Event()

    def call(number: int) -> None:
        images = [xray(one) for one in range(XRAYS)]
        with cluster.client() as client:
            while not stop.is_set():
                number = (number + 1) % XRAYS
                note(load, client, number, images[number])

    threads = [threading.Thread(target=call, args=(number,)) for number in range(callers)]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def note(load: Load, client: httpx.Client, number: int, image: bytes) -> None:
    for _ in range(30):
        try:
            answer = segment(client, image)
        except httpx.HTTPError as error:
            with load.lock:
                load.unanswered.append(type(error).__name__)
            return
        with load.lock:
            load.statuses[answer.status_code] += 1
            if answer.status_code == 200:
                found = answer.json()
                key = (found["model"]["sha256"], number)
                load.masks.setdefault(key, set()).add(digest_of(found))
                return
            load.retried += 1
        time.sleep(0.3)
    load.unanswered.append("never answered")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Generator[Cluster, None, None]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (tmp_path_factory.mktemp("serve") / "driver.log").open("w")
    driver = subprocess.Popen(
        [sys.executable, "-m", DRIVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        cwd=ROOT,
    )
    started = Cluster(driver, port)
    try:
        started.deploy()
        yield started
    finally:
        assert driver.stdin is not None and driver.stdout is not None
        driver.stdin.close()
        try:
            driver.wait(60)
        except subprocess.TimeoutExpired:
            driver.kill()
            driver.wait()
        driver.stdout.close()
        log.close()


@pytest.fixture(scope="module")
def right_masks() -> dict[tuple[str, int], str]:
    """Digests of the masks that one process of the service gives, by model and X-ray."""
    found = {}
    for model in (None, OTHER_MODEL):
        with running_server(model) as server:
            for number in range(XRAYS):
                answer = json.loads(server.segment(xray(number), {"overlay": "false"}).body)
                found[answer["model"]["sha256"], number] = digest_of(answer)
    return found


def test_a_new_model_comes_and_goes_under_load_and_no_request_is_lost(
    cluster: Cluster, right_masks: dict[tuple[str, int], str]
) -> None:
    with load_on(cluster) as load:
        time.sleep(2)
        cluster.deploy(model=str(OTHER_MODEL))
        with cluster.client() as client:
            other = client.get("/readyz").json()["model"]["sha256"]
        time.sleep(2)
        cluster.deploy()
        time.sleep(2)
    assert load.unanswered == []
    assert set(load.statuses) <= {200, 429, 503}, load.statuses
    assert {sha for sha, _ in load.masks} == {other, default_model().sha256}
    assert {key: {right_masks[key]} for key in load.masks} == load.masks


def test_a_killed_replica_loses_nothing_that_cannot_be_sent_again(
    cluster: Cluster, right_masks: dict[tuple[str, int], str]
) -> None:
    with load_on(cluster) as load:
        time.sleep(2)
        before = set(cluster.replicas())
        os.kill(sorted(before)[0], signal.SIGKILL)
        end = time.monotonic() + 60
        while len(set(cluster.replicas()) - before) < 1 and time.monotonic() < end:
            time.sleep(0.2)
        assert set(cluster.replicas()) - before, "no replica took the place of the killed one"
        time.sleep(3)
    assert load.unanswered == []
    # Ray answers 500 for what the killed one held, one request of each caller at most.
    assert set(load.statuses) <= {200, 429, 500, 503}, load.statuses
    assert load.statuses[500] <= CALLERS, load.statuses
    assert load.statuses[200] > 10
    assert {key: {right_masks[key]} for key in load.masks} == load.masks


def test_figures_of_all_replicas_add_up_under_our_names(cluster: Cluster) -> None:
    with cluster.client() as client:
        deadline = time.monotonic() + 60  # until the replicas of before are forgotten
        while len((before := total(client))[1]) != 2 and time.monotonic() < deadline:
            time.sleep(0.5)
        assert len(before[1]) == 2
        for number in range(6):
            assert segment(client, xray(number % XRAYS)).status_code == 200
        deadline = time.monotonic() + 20  # each replica tells its figures every five seconds
        while total(client)[0] < before[0] + 6 and time.monotonic() < deadline:
            time.sleep(0.5)
        assert total(client)[0] == before[0] + 6


def total(client: httpx.Client) -> tuple[float, set[str]]:
    """Answered segmentations of all replicas, and the replicas that are ready."""
    text = client.get("/metrics").text
    samples = [one for family in text_string_to_metric_families(text) for one in family.samples]
    ready = {one.labels["replica"] for one in samples if one.name == "lungseg_ready"}
    answered = sum(
        one.value
        for one in samples
        if one.name == "lungseg_requests_total"
        and (one.labels["route"], one.labels["code"]) == ("/segment", "200")
    )
    return answered, ready


def test_more_than_the_queues_hold_is_429_with_the_time_to_wait(cluster: Cluster) -> None:
    cluster.deploy(queue_limit="1", max_batch="1")
    answers: list[httpx.Response] = []

    def call() -> None:
        with cluster.client() as client:
            answers.append(segment(client, xray(0)))

    callers = [threading.Thread(target=call) for _ in range(24)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    statuses = Counter(answer.status_code for answer in answers)
    assert set(statuses) == {200, 429}, statuses
    refused = [answer for answer in answers if answer.status_code == 429]
    assert all(int(answer.headers["Retry-After"]) >= 1 for answer in refused)
