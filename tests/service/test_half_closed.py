"""Callers who close their sending side: who still listens is answered, who is gone is dropped."""

from __future__ import annotations

import os
import signal
import socket
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from benchmarks.service.same_masks_under_load import image_workers
from benchmarks.service.server_process import RunningServer, multipart, running_server
from tests.service.fake_model import picture, png
from tests.service.live_service import until


@pytest.fixture(scope="module")
def server(tiny_artifact: Path) -> Iterator[RunningServer]:
    with running_server(tiny_artifact, ["--threads", "1"]) as running:
        yield running


@contextmanager
def workers_that_wait(server: RunningServer) -> Iterator[None]:
    """Keep every request waiting for an image worker."""
    stopped = image_workers(server.process.pid)
    for process in stopped:
        os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in stopped:
            with suppress(ProcessLookupError):  # its caller has left
                os.kill(process, signal.SIGCONT)


def sent(server: RunningServer, version: bytes = b"1.1") -> socket.socket:
    """Return a connection through which a whole request for a mask went."""
    body, kind = multipart(png(picture()), {})
    head = b"POST /segment HTTP/%s\r\nHost: localhost\r\nAccept: image/png\r\n" % version
    head += f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=20)
    connection.sendall(head + body)
    return connection


def cancelled(server: RunningServer) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=10) as page:
        lines = page.read().decode().splitlines()
    return float(next(x.split()[1] for x in lines if x.startswith("lungseg_cancelled_total")))


def received(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(65536), b""))


def test_a_half_closed_request_is_answered_and_the_connection_closed(
    server: RunningServer,
) -> None:
    with workers_that_wait(server):
        connection = sent(server)
        connection.shutdown(socket.SHUT_WR)
        early = connection.recv(65536)  # comes while it waits: who has left would reset it
    with connection:
        answer = early + received(connection)
    *interim, head, mask = answer.split(b"\r\n\r\n", answer.count(b"HTTP/1.1 100 ") + 1)
    assert interim and set(interim) == {b"HTTP/1.1 100 Continue"}
    assert head.startswith(b"HTTP/1.1 200 ")
    assert mask.startswith(b"\x89PNG")


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
def test_who_is_gone_is_dropped_although_it_closed_in_the_same_way(
    server: RunningServer, version: bytes
) -> None:
    before = cancelled(server)
    with workers_that_wait(server):
        time.sleep(0.05)
        sent(server, version).close()
        until(lambda: cancelled(server) > before)
        assert cancelled(server) == before + 1


def test_who_stops_sending_in_the_middle_of_a_body_is_gone(server: RunningServer) -> None:
    head = b"POST /segment HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/dicom\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(head + b"Content-Length: 1000\r\n\r\nhalf of it")
        time.sleep(0.1)
        connection.shutdown(socket.SHUT_WR)
        assert received(connection) == b""
