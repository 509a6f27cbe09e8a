"""Several processes hold the callers' connections; what must be one stays one."""

from __future__ import annotations

import base64
import concurrent.futures
import contextlib
import hashlib
import http.client
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from benchmarks.service.segment_latency import DEFAULT_IMAGE
from benchmarks.service.server_process import RunningServer, multipart, running_server
from service.audit.chain import verify_files
from tests.service.live_service import is_ready, metric, until, url

FLAGS = ["--threads", "1", "--image-workers", "2", "--fronts", "2"]
IMAGE = DEFAULT_IMAGE.read_bytes()
AUDIT_KEY = b"a key of thirty-two bytes or more"


@pytest.fixture(scope="module")
def server(tiny_artifact: Path) -> Iterator[RunningServer]:
    with running_server(tiny_artifact, FLAGS) as running:
        yield running


def front_processes(server: RunningServer) -> list[int]:
    """Process ids of the fronts."""
    found = []
    for thread in Path(f"/proc/{server.process.pid}/task").iterdir():
        for child in (thread / "children").read_text().split():
            if "front_process" in Path(f"/proc/{child}/cmdline").read_text():
                found.append(int(child))
    return found


def sockets_of(process: int) -> set[int]:
    """Inodes of the sockets that a process holds."""
    links = []
    for one in Path(f"/proc/{process}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            links.append(os.readlink(one))
    return {int(link[8:-1]) for link in links if link.startswith("socket:")}


def accepted_as(connection: socket.socket, port: int) -> int:
    """Inode of the server's end of a caller's connection."""
    ends = (port, connection.getsockname()[1])
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        if tuple(int(words[place].split(":")[1], 16) for place in (1, 2)) == ends:
            return int(words[9])
    raise LookupError(f"no connection between the ports {ends}")


def status_of(connection: http.client.HTTPConnection) -> int:
    """Status of another answer on a kept connection; 0 when that has ended."""
    try:
        connection.request("GET", "/livez")
        answer = connection.getresponse()
        answer.read()
    except (OSError, http.client.HTTPException):
        return 0
    return answer.status


def segment(server: RunningServer, client: httpx.Client, **fields: str) -> httpx.Response:
    return client.post(url(server, "/segment"), files={"image": IMAGE}, data=fields)


def test_each_front_has_its_share_of_the_connections(server: RunningServer) -> None:
    processes = front_processes(server)
    with contextlib.ExitStack() as opened:
        callers = [
            opened.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            for _ in range(10)
        ]

        def held() -> list[int]:
            ends = {accepted_as(one, server.port) for one in callers}
            return [len(ends & sockets_of(process)) for process in processes]

        until(lambda: metric(server, "lungseg_connections") >= 10)
        until(lambda: sum(held()) == 10)
        assert len(processes) == 2
        assert max(held()) <= 6
    until(lambda: metric(server, "lungseg_connections") <= 1)


def test_callers_of_all_fronts_get_the_same_mask_and_are_counted_once(
    server: RunningServer,
) -> None:
    counter = 'lungseg_requests_total{code="200",route="/segment"}'
    before = metric(server, "lungseg_request_duration_seconds_count")

    def ask(_: int) -> str:
        with httpx.Client() as client:  # a connection of its own
            answer = segment(server, client)
        assert answer.status_code == 200
        assert answer.headers["server-timing"].count(";dur=") == 8
        return hashlib.sha256(answer.json()["masks"][0]["png"].encode()).hexdigest()

    with concurrent.futures.ThreadPoolExecutor(6) as threads:
        masks = set(threads.map(ask, range(12)))
    assert len(masks) == 1
    until(lambda: metric(server, "lungseg_request_duration_seconds_count") == before + 12)
    assert metric(server, counter) >= 12
    until(lambda: metric(server, "lungseg_inflight") == 0)
    until(lambda: metric(server, "lungseg_queue_bytes") == 0)


@pytest.mark.parametrize(
    ("fields", "headers", "status", "code"),
    [
        ({"convention": "none"}, {}, 422, "invalid_field"),
        ({}, {"Accept": "text/html"}, 406, "not_acceptable"),
        ({"bbox": "5000,5000,6000,6000"}, {}, 422, "invalid_box"),
    ],
)
def test_refusals_are_those_of_a_single_process(
    server: RunningServer, fields: dict[str, str], headers: dict[str, str], status: int, code: str
) -> None:
    rejected = f'lungseg_rejected_total{{reason="{code}"}}'
    answer = httpx.post(
        url(server, "/segment"), files={"image": IMAGE}, data=fields, headers=headers
    )
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["x-request-id"] == answer.json()["request_id"]
    until(lambda: metric(server, rejected) == 1)
    assert metric(server, "lungseg_inflight") == 0


def test_pages_of_other_origins_are_refused_by_each_front(server: RunningServer) -> None:
    for _ in range(3):
        headers = {"Sec-Fetch-Site": "cross-site"}
        answer = httpx.post(url(server, "/segment"), files={"image": IMAGE}, headers=headers)
        assert answer.json()["code"] == "foreign_origin"
    counter = 'lungseg_requests_total{code="403",route="unmatched"}'
    until(lambda: metric(server, counter) == 3)


def test_routes_without_an_xray_are_handed_on(server: RunningServer) -> None:
    with httpx.Client(base_url=url(server, "")) as client:
        assert client.get("/v1/model").json()["limits"]["max_batch"] >= 1
        assert client.get("/nothing").json()["code"] == "not_found"
        wrong = client.put("/segment", content=b"x" * 100_000)
        assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
        head = client.head("/livez")
        assert (head.status_code, head.content) == (200, b"")
        page = client.get("/docs", headers={"X-Request-ID": "mine"})
        assert page.headers["x-request-id"] == "mine"
        header = {b"X-Long": b"\xff" * 60_000}
        assert client.get("/livez", headers=header).status_code == 200


def test_an_xray_is_shown_by_a_front(server: RunningServer) -> None:
    answer = httpx.post(url(server, "/preview"), files={"image": IMAGE})
    width, height = (
        int(answer.headers[f"x-lungseg-preview-{name}"]) for name in ("width", "height")
    )
    assert len(answer.content) == 2 * width * height


def test_a_caller_who_leaves_gives_the_place_back(server: RunningServer) -> None:
    body, content_type = multipart(IMAGE, {})
    head = (
        "POST /segment HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    before = metric(server, "lungseg_cancelled_total")
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", server.port)) as caller:
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            caller.sendall(head.encode() + body)
    until(lambda: metric(server, "lungseg_cancelled_total") == before + 3)
    until(lambda: metric(server, "lungseg_inflight") == metric(server, "lungseg_queue_depth") == 0)
    assert metric(server, "lungseg_queue_bytes") == 0


def test_a_front_that_is_killed_takes_its_own_connections_alone(server: RunningServer) -> None:
    fronts = front_processes(server)
    body, content_type = multipart(IMAGE, {})
    head = f"POST /segment HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content_type}\r\n"
    unfinished = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:100]
    with contextlib.ExitStack() as opened:
        kept = [http.client.HTTPConnection("127.0.0.1", server.port) for _ in range(4)]
        for connection in kept:
            opened.callback(connection.close)
        assert [status_of(connection) for connection in kept] == [200] * 4
        waiting = [
            opened.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            for _ in range(4)
        ]
        for one in waiting:  # admitted, their uploads unfinished
            one.sendall(unfinished)
        until(lambda: metric(server, "lungseg_inflight") == 4)
        of_killed = sockets_of(fronts[0])
        stays = [accepted_as(connection.sock, server.port) not in of_killed for connection in kept]
        waiting_on = [accepted_as(one, server.port) not in of_killed for one in waiting]
        assert 0 < sum(waiting_on) < 4
        os.kill(fronts[0], signal.SIGKILL)
        until(lambda: metric(server, "lungseg_inflight") == sum(waiting_on))
        assert [status_of(connection) == 200 for connection in kept] == stays
        assert is_ready(server)
        assert metric(server, "lungseg_fronts_lost_total") == 1
        until(lambda: metric(server, "lungseg_fronts") == 2)
        assert len(front_processes(server)) == 2
    until(lambda: metric(server, "lungseg_inflight") == 0)
    with httpx.Client() as client:
        assert segment(server, client).status_code == 200
    until(lambda: metric(server, "lungseg_connections") <= 1)


def test_a_front_that_hangs_is_ended_and_the_other_serves_meanwhile(tiny_artifact: Path) -> None:
    body, content_type = multipart(IMAGE, {})
    head = f"POST /segment HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content_type}\r\n"
    with running_server(tiny_artifact, FLAGS) as server, contextlib.ExitStack() as opened:
        hung, other = front_processes(server)
        kept = [http.client.HTTPConnection("127.0.0.1", server.port) for _ in range(4)]
        for connection in kept:
            opened.callback(connection.close)
        assert [status_of(connection) for connection in kept] == [200] * 4
        of_hung = sockets_of(hung)
        lost: list[http.client.HTTPConnection] = []
        served: list[http.client.HTTPConnection] = []
        for connection in kept:
            is_lost = accepted_as(connection.sock, server.port) in of_hung
            (lost if is_lost else served).append(connection)
        assert lost and served
        lost[0].sock.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:100])

        def figure(name: str) -> float:
            return figure_on(served[0], name)

        until(lambda: figure("lungseg_inflight") == 1)
        os.kill(hung, signal.SIGSTOP)
        until(lambda: figure("lungseg_fronts_lost_total") == 1)
        until(lambda: figure("lungseg_fronts") == 2)
        assert not Path(f"/proc/{hung}").exists()
        assert status_of(served[0]) == 200  # on the connection that was asked all the time
        with contextlib.suppress(ConnectionResetError):
            assert lost[0].sock.recv(1) == b""
        assert figure("lungseg_inflight") == 0
        assert other in front_processes(server)
        with httpx.Client() as client:
            assert segment(server, client).status_code == 200
        log = Path(f"/proc/{server.process.pid}/fd/2").read_text().splitlines()
        (line,) = [line for line in log if '"front lost"' in line]
        assert json.loads(line)["how"] == "hung"


def figure_on(connection: http.client.HTTPConnection, name: str) -> float:
    """The value of one sample of `/metrics`, asked on a connection that is kept."""
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(name + " "))


def test_keys_deadline_audit_log_and_stop_are_those_of_one_service(
    tiny_artifact: Path, tmp_path: Path
) -> None:
    keys, audit_key = tmp_path / "keys", tmp_path / "audit.key"
    keys.write_text(hashlib.sha256(b"right").hexdigest() + " name=viewer\n")
    audit_key.write_bytes(AUDIT_KEY)
    log = tmp_path / "audit.jsonl"
    # One a minute: the next is allowed after a minute, which the test does not take.
    flags = [*FLAGS, "--api-keys-file", str(keys), "--failed-keys-per-minute", "1"]
    flags += ["--audit-log", str(log), "--audit-key-file", str(audit_key)]
    with running_server(tiny_artifact, flags) as server:
        codes = []
        for _ in range(6):  # each on a connection of its own, to either front
            headers = {"X-API-Key": "wrong"}
            answer = httpx.post(url(server, "/segment"), files={"image": b"x"}, headers=headers)
            codes.append(answer.json()["code"])
        assert codes == ["wrong_key"] + ["too_many_attempts"] * 5
    with running_server(tiny_artifact, flags) as server:
        headers = {"X-API-Key": "right"}
        for _ in range(4):
            answer = httpx.post(url(server, "/segment"), files={"image": IMAGE}, headers=headers)
            assert answer.status_code == 200
            assert base64.b64decode(answer.json()["masks"][0]["png"])
        fronts = front_processes(server)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) == 0
        assert not [process for process in fronts if Path(f"/proc/{process}").exists()]
    assert verify_files([log], AUDIT_KEY).state.entries >= 4
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    answered = [one for one in entries if one.get("event") == "segment"]
    assert [one["key"] for one in answered] == ["viewer"] * 4
    assert len({one["answer_sha256"] for one in answered}) == 4


def test_a_request_in_hand_is_answered_while_the_service_stops(tiny_artifact: Path) -> None:
    body, content_type = multipart(IMAGE, {})
    head = f"POST /segment HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content_type}\r\n"
    with running_server(tiny_artifact, FLAGS) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as caller:
            caller.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:5000])
            until(lambda: metric(server, "lungseg_inflight") == 1)
            server.process.send_signal(signal.SIGTERM)
            until(lambda: httpx.get(url(server, "/readyz")).status_code == 503)
            time.sleep(0.3)
            caller.sendall(body[5000:])
            assert caller.recv(12) == b"HTTP/1.1 200"
            while caller.recv(65536):
                pass
        assert server.process.wait(20) == 0
