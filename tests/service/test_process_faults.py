"""The real process when the bad thing really happens: kill -9, a stall, a stop under load."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from benchmarks.service.server_process import RunningServer, running_server
from tests.service.fake_model import form, picture, png
from tests.service.live_service import compute_process, is_ready, metric, until, url

FLAGS = ["--threads", "1", "--stall-timeout-s", "4", "--max-batch", "2"]


@pytest.fixture
def server(tiny_artifact: Path) -> Iterator[RunningServer]:
    with running_server(tiny_artifact, FLAGS) as running:
        yield running


def status_of(server: RunningServer) -> int:
    """Status of one answer; 0 when the connection broke before it."""
    try:
        return server.segment(png(picture()), {}).status
    except OSError:
        return 0


def in_flight(
    server: RunningServer, count: int, already: int = 0
) -> tuple[list[threading.Thread], list[int]]:
    """Sends requests that the halted compute process cannot answer yet."""
    statuses: list[int] = []
    callers = [
        threading.Thread(target=lambda: statuses.append(status_of(server))) for _ in range(count)
    ]
    for caller in callers:
        caller.start()
    until(lambda: metric(server, "lungseg_inflight") == count + already)
    return callers, statuses


def test_kill_9_of_the_compute_process(server: RunningServer) -> None:
    """503 for all in flight, unready at once, ready again with a new process, and right masks."""
    image = png(picture(4))
    before = server.segment(image, {}, accept="image/png")
    old = compute_process(server)
    os.kill(old, signal.SIGSTOP)
    callers, statuses = in_flight(server, 5)
    os.kill(old, signal.SIGKILL)
    for caller in callers:
        caller.join(60)
    assert statuses == [503] * 5
    refused = server.segment(image, {})
    assert not is_ready(server) and refused.status == 503
    assert httpx.get(url(server, "/livez")).status_code == 200
    until(lambda: is_ready(server))
    assert compute_process(server) != old
    after = server.segment(image, {}, accept="image/png")
    assert (before.status, before.body) == (after.status, after.body) == (200, before.body)
    assert metric(server, "lungseg_compute_restarts_total") == 1
    assert metric(server, "lungseg_inflight") == metric(server, "lungseg_queue_depth") == 0


def test_kill_9_while_nobody_asks(server: RunningServer) -> None:
    """Noticed without a request, so that the next one meets the new process and no 503."""
    old = compute_process(server)
    os.kill(old, signal.SIGKILL)
    until(lambda: not is_ready(server))
    until(lambda: is_ready(server))
    assert compute_process(server) != old
    assert server.segment(png(picture()), {}).status == 200


def test_a_stalled_compute_process_is_replaced(server: RunningServer) -> None:
    """The watchdog ends it after the time set, and everybody gets an answer."""
    old = compute_process(server)
    os.kill(old, signal.SIGSTOP)
    callers, statuses = in_flight(server, 3)
    for caller in callers:
        caller.join(60)
    assert statuses == [503] * 3
    until(lambda: is_ready(server))
    assert server.segment(png(picture()), {}).status == 200


def test_killing_the_service_leaves_no_compute_process(tiny_artifact: Path) -> None:
    with running_server(tiny_artifact, FLAGS) as server:
        child = Path(f"/proc/{compute_process(server)}")
        server.process.kill()
        server.process.wait(10)
        until(lambda: not child.exists() or "State:\tZ" in (child / "status").read_text())


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_drains_and_the_second_ends_at_once(
    server: RunningServer, first: signal.Signals
) -> None:
    """With a request that nothing will answer; `--drain-timeout-s` is far away."""
    os.kill(compute_process(server), signal.SIGSTOP)
    callers, _ = in_flight(server, 1)
    server.process.send_signal(first)
    until(lambda: not is_ready(server))
    assert server.process.poll() is None
    server.process.send_signal(signal.SIGTERM)
    assert until(lambda: server.process.poll() is not None) < 15  # of 25 for the drain
    for caller in callers:
        caller.join(10)


def test_who_had_connected_before_the_stop_is_answered_though_the_request_comes_later(
    tiny_artifact: Path,
) -> None:
    """A caller on a busy machine: connected, and not yet at its first byte."""
    with running_server(tiny_artifact, FLAGS) as server:
        caller = socket.create_connection(("127.0.0.1", server.port), timeout=10)
        with caller:
            until(lambda: metric(server, "lungseg_connections") >= 1)
            server.process.send_signal(signal.SIGTERM)
            time.sleep(1.2)  # longer than the service waits for callers who are not there
            caller.sendall(b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert caller.recv(100).startswith(b"HTTP/1.1 200 ")
        assert server.process.wait(30) == 0


def test_a_caller_who_says_nothing_delays_the_stop_by_seconds_at_most(tiny_artifact: Path) -> None:
    with running_server(tiny_artifact, FLAGS) as server:
        caller = socket.create_connection(("127.0.0.1", server.port), timeout=10)
        with caller:
            until(lambda: metric(server, "lungseg_connections") >= 1)
            started = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(30) == 0
            assert time.monotonic() - started < 12  # of 25 for the drain
            assert caller.recv(100) == b""


@contextlib.contextmanager
def no_processor_idle() -> Iterator[None]:
    """Other programs keep all processors busy."""
    count = 1 + len(os.sched_getaffinity(0))
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for one in busy:
            one.kill()
            one.wait()


def test_image_workers_hold_nothing_of_answered_requests_where_no_processor_is_idle(
    tiny_artifact: Path,
) -> None:
    """More requests than a worker may have descriptors, beside programs that take all time."""
    answers: list[int] = []
    image = png(picture())
    with running_server(tiny_artifact, [*FLAGS, "--image-workers", "2"]) as server:

        def call() -> None:
            for _ in range(20):
                answers.append(server.segment(image, {}).status)

        callers = [threading.Thread(target=call) for _ in range(12)]
        with no_processor_idle():
            for caller in callers:
                caller.start()
            for caller in callers:
                caller.join(120)
    assert answers == [200] * 240


def test_stop_under_load_loses_nothing_that_was_accepted(tiny_artifact: Path) -> None:
    """Twelve callers without pause; after SIGTERM: masks or `draining`, never a broken answer."""
    outcomes: list[str] = []
    stop = threading.Event()
    arguments = form()

    with running_server(tiny_artifact, FLAGS) as server:

        def call() -> None:
            while not stop.is_set():
                try:
                    answer = httpx.post(url(server, "/segment"), **arguments, timeout=30)
                except httpx.ConnectError:
                    return  # never accepted: the port is closed
                except httpx.TransportError as error:
                    outcomes.append(type(error).__name__)
                    return
                outcomes.append(str(answer.status_code))

        callers = [threading.Thread(target=call) for _ in range(12)]
        for caller in callers:
            caller.start()
        until(lambda: outcomes.count("200") > 20)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0
        stop.set()
        for caller in callers:
            caller.join(30)
    # The kernel may hold a connection that the service had not accepted when the port closed.
    assert set(outcomes) <= {"200", "503", "429", "ReadError"}
    assert outcomes.count("ReadError") <= 2
    assert "200" in outcomes


def test_a_full_service_refuses_in_milliseconds_even_slow_uploads(tiny_artifact: Path) -> None:
    flags = ["--threads", "1", "--queue-limit", "1", "--max-batch", "1"]
    with running_server(tiny_artifact, flags) as server:
        child = compute_process(server)
        os.kill(child, signal.SIGSTOP)
        try:
            callers: list[threading.Thread] = []
            for already in range(2):  # one that would be computed, and the next one
                held = metric(server, "lungseg_queue_bytes")
                callers += in_flight(server, 1, already=already)[0]
                until(lambda held=held: metric(server, "lungseg_queue_bytes") > held)  # type: ignore[misc]
                until(lambda: metric(server, "lungseg_queue_depth") == 0)
            callers += in_flight(server, 1, already=2)[0]
            until(lambda: metric(server, "lungseg_queue_depth") == 1)
            times_s = sorted(refusal_time_s(server) for _ in range(21))
        finally:
            os.kill(child, signal.SIGCONT)
        for caller in callers:
            caller.join(20)
    assert times_s[0] < 0.05  # the least disturbed by other work on the machine


def refusal_time_s(server: RunningServer) -> float:
    """Sends the head of a request and no body; returns the seconds until 429 has come."""
    head = (
        b"POST /segment HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n"
        b"Content-Type: multipart/form-data; boundary=b\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        began = time.perf_counter()
        connection.sendall(head)
        answer = connection.recv(65536)
        spent_s = time.perf_counter() - began
    assert answer.startswith(b"HTTP/1.1 429") and b"retry-after: " in answer.lower()
    return spent_s


def test_a_caller_keeps_its_connection_after_an_early_refusal(server: RunningServer) -> None:
    """The rest of the refused body is read, so the next request on it is understood."""
    side = 1500
    noise = np.random.default_rng(0).integers(0, 256, (side, side), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=30) as client:
        refused = client.post("/segment?x=1", files={"image": ("a", buffer.getvalue())})
        assert refused.status_code == 422
        assert client.post("/segment", **form()).status_code == 200
