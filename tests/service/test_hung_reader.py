"""A reader of the log that hangs: lines are lost and counted, and nobody waits for it."""

from __future__ import annotations

import contextlib
import fcntl
import io
import itertools
import json
import logging
import os
import pty
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.line_handler import LineHandler
from service.line_writer import MOST_WAITED_S, WAITED_SHARE, LineWriter
from service.logging import JsonLineFormatter
from tests.service import node_peers
from tests.service.fake_model import form
from tests.service.live_service import until

PIPE_BYTES = 8192  # two pages: one that is not empty counts as full


def fill(descriptor: int) -> None:
    """Fill what a descriptor leads to, without a change for those who share it."""
    own = os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    has_room = True
    while has_room:
        has_room = False
        for size in (1024, 1):
            with contextlib.suppress(BlockingIOError):
                while True:
                    os.write(own, b" " * (size - 1) + b"\n")
                    has_room = True
        time.sleep(0.05)  # a terminal moves some of it on meanwhile
    os.close(own)


@contextlib.contextmanager
def full_pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    fill(writer)
    yield reader, writer
    os.close(reader)
    os.close(writer)


@contextlib.contextmanager
def stopped_terminal() -> Iterator[tuple[int, int]]:
    reader, writer = pty.openpty()
    fill(writer)
    yield reader, writer
    os.close(reader)
    os.close(writer)


@contextlib.contextmanager
def full_socket() -> Iterator[tuple[int, int]]:
    writer, reader = socket.socketpair()
    with writer, reader:
        writer.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                writer.send(b" " * 1023 + b"\n")
        writer.setblocking(True)
        yield reader.fileno(), writer.fileno()


def drained(reader: int, settled_s: float = 0.2) -> bytes:
    """What is there to read, until nothing more comes for a moment."""
    os.set_blocking(reader, False)
    data, last = b"", time.monotonic()
    while time.monotonic() - last < settled_s:
        try:
            piece = os.read(reader, 65536)
        except BlockingIOError:
            time.sleep(0.01)
            continue
        if not piece:
            break
        data, last = data + piece, time.monotonic()
    return data


@pytest.mark.parametrize("full", [full_pipe, stopped_terminal, full_socket])
@pytest.mark.timeout(30)
def test_no_line_waits_for_a_reader_that_hangs(
    full: Callable[[], contextlib.AbstractContextManager[tuple[int, int]]],
) -> None:
    with full() as (reader, writer):
        handler = LineHandler(io.TextIOWrapper(io.FileIO(writer, "w", closefd=False)))
        handler.setFormatter(JsonLineFormatter())
        logger = logging.Logger("canary")
        logger.addHandler(handler)
        began = time.monotonic()
        for _ in range(100):
            logger.warning("nobody reads")
        assert handler.lost_lines == 100
        assert time.monotonic() - began < 1.0  # one short wait, not a hundred
        assert os.get_blocking(writer)  # whoever shares it keeps it as it was
        drained(reader)
        logger.warning("somebody reads")
        lines = [json.loads(line) for line in drained(reader).splitlines()]
        assert [line["event"] for line in lines] == ["log lines lost", "somebody reads"]
        assert lines[0]["count"] == 100


def test_a_pipe_of_another_user_is_asked_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.line_writer._opened_again", lambda descriptor: None)
    with full_pipe() as (reader, writer):
        lines = LineWriter(writer)
        with pytest.raises(BlockingIOError):
            lines.write(b"lost\n")
        drained(reader)
        lines.write(b"x" * 6000 + b"\n")  # in pieces that find room
        assert drained(reader) == b"x" * 6000 + b"\n"


def test_a_reader_that_is_slow_costs_no_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.line_writer.MOST_WAITED_S", 30.0)  # this machine may be busy
    with full_pipe() as (reader, writer):
        for _ in range(3):
            fill(writer)
            lines, reading = LineWriter(writer), threading.Timer(0.005, os.read, (reader, 65536))
            reading.start()
            lines.write(b"a line\n")
            reading.join()
            assert os.read(reader, 65536).endswith(b"a line\n")


def test_lines_wait_for_a_slow_reader_a_bounded_share_of_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s, waited_s, has_room = 0.0, 0.0, itertools.cycle([False, True])

    def write(descriptor: int, data: memoryview) -> int:
        if not next(has_room):
            raise BlockingIOError
        return len(data)

    def wait(descriptor: int, timeout_s: float) -> bool:
        nonlocal now_s, waited_s
        now_s, waited_s = now_s + timeout_s, waited_s + timeout_s
        return True

    monkeypatch.setattr("service.line_writer._way_to_write", lambda descriptor: write)
    monkeypatch.setattr("service.line_writer._is_ready", wait)
    lines = LineWriter(0, lambda: now_s)
    for _ in range(20_000):
        now_s += 0.001
        with contextlib.suppress(BlockingIOError):
            lines.write(b"a line\n")
    assert 0.1 < waited_s <= MOST_WAITED_S + WAITED_SHARE * now_s


PROGRAM = """
import os, sys, threading
from service.line_writer import never_wait_for_readers
never_wait_for_readers()
print("x" * 1_000_000)
print("x" * 1_000_000, file=sys.stderr)
thread = threading.Thread(target=lambda: 1 / 0)
thread.start()
thread.join()
for descriptor in (1, 2):  # what native code does
    try:
        os.write(descriptor, b"x")
    except BlockingIOError:
        continue
    sys.exit(4)
raise RuntimeError("x" * 10_000)
"""


def test_prints_tracebacks_and_native_code_do_not_wait_either() -> None:
    with full_pipe() as (reader, writer):
        process = subprocess.run(
            [sys.executable, "-c", PROGRAM], stdout=writer, stderr=writer, timeout=30, check=False
        )
        assert process.returncode == 1  # that of a traceback
        assert os.get_blocking(writer)
        assert not drained(reader).strip()


def test_what_prints_where_somebody_reads_arrives() -> None:
    program = "from service.line_writer import *\nnever_wait_for_readers()\n"
    program += "print('über 1')\nraise RuntimeError('gone')"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout) == (1, "über 1\n".encode())
    assert done.stderr.endswith(b"RuntimeError: gone\n")


@contextlib.contextmanager
def service_without_reader(model: Path, fronts: int) -> Iterator[tuple[Any, str, int]]:
    """A ready service with a small pipe as its output: the process, its address, the other end."""
    port = node_peers.free_port()
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    flags = ["--host", "127.0.0.1", "--port", str(port), "--model", str(model), "--threads", "1"]
    command = [sys.executable, "-m", "service", *flags, "--fronts", str(fronts)]
    process = subprocess.Popen(command, stdout=writer, stderr=writer)
    os.close(writer)
    url = f"http://127.0.0.1:{port}"

    def is_ready() -> bool:
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{url}/readyz", timeout=10).status_code == 200
        return False

    try:
        until(is_ready)
        yield process, url, reader
    finally:
        process.kill()
        process.wait()
        os.close(reader)


@pytest.mark.parametrize("fronts", [1, 2])
def test_a_service_whose_log_nobody_reads_answers_and_stops(
    tiny_artifact: Path, fronts: int
) -> None:
    with service_without_reader(tiny_artifact, fronts) as (process, url, reader):

        def answered() -> bool:
            for path in ("/livez", "/readyz"):
                assert httpx.get(url + path, timeout=10).status_code == 200
            return httpx.post(f"{url}/segment", **form(), timeout=10).status_code == 200

        def lost() -> float:
            found = httpx.get(f"{url}/metrics", timeout=10).text.splitlines()
            (line,) = [one for one in found if one.startswith("lungseg_log_lines_lost_total")]
            return float(line.split()[1])

        until(lambda: answered() and lost() >= 20)
        time.sleep(1.5)  # fronts say once a second how many they lost
        expected, data = lost(), drained(reader)
        for _ in range(20):
            assert answered()  # the next line of each process says how many it lost
            data += drained(reader)
            lines = [json.loads(line) for line in data.splitlines()]
            told = sum(line["count"] for line in lines if line["event"] == "log lines lost")
            if told >= expected:
                break
        # Of two fronts, the serving process may have lost a line and have nothing to say after it.
        least = expected if fronts == 1 else 20
        assert least <= told <= lost() == expected, lines
        assert lines[-1]["event"] == "request"
        for _ in range(30):  # full again
            assert answered()
        process.terminate()
        assert process.wait(30) == 0
