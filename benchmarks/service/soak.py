"""Hours of mixed requests: growth of memory, leaked descriptors, and requests counted once.

    python -m benchmarks.service.soak --seconds 7200 [--callers 4] [--interval-s 0] [--model FOLDER]

Callers send good X-rays, damaged ones, wrong fields and uploads that they abort, without a pause or
one each `--interval-s`. Each request has its own id. At the end the callers' answers, the service's
metrics and its audit log must agree: each counts every request once. Memory is the PSS of all
processes without pages of library files, which unrelated processes share. It is read after the
callers have paused for some seconds. The first reading follows after each caller has sent each kind
twice and a tenth of the time has passed. The exit code is 1 if memory grew by 50 MB, a descriptor
is left open, or a request is not counted.
"""

from __future__ import annotations

import argparse
import itertools
import json
import secrets
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.processor import processor_name
from benchmarks.service.process_memory import tree_unmapped_bytes
from benchmarks.service.segment_latency import DEFAULT_IMAGE, png_of_size
from benchmarks.service.server_process import RunningServer, multipart, running_server
from service.audit.chain import entries_of, verify_files

MOST_GROWTH_BYTES = 50_000_000
PAUSE_S = 2.0
WARM_UP_ROUNDS = 2
"""Requests of each kind from each caller before the first reading. So each image worker has
processed every kind, even on a busy machine."""
LOOKS = 10
"""Number of readings of memory and descriptors."""


@dataclass
class Soaked:
    """Results of the run.

    Attributes:
        answers: answers by kind of request and status, as callers got them.
        given_up: number of uploads that callers aborted.
        memory_bytes: memory of all processes at each reading.
        descriptors: open descriptors of the serving process at each reading.
        faults: one sentence for each failed check.
    """

    answers: Counter[str] = field(default_factory=Counter)
    given_up: int = 0
    memory_bytes: list[int] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @property
    def growth_bytes(self) -> int:
        """Return the minimum of the last three readings less the minimum of the first three.

        A recently replaced image worker, or one that has not returned free memory yet, changes a
        single reading by tens of megabytes. A leak raises the minimum.
        """
        return min(self.memory_bytes[-3:]) - min(self.memory_bytes[:3])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the soak test and print the results.

    Args:
        arguments: command-line arguments; those of the process when None.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=7200.0, help="how long")
    parser.add_argument("--callers", type=int, default=4, help="callers at a time")
    parser.add_argument(
        "--interval-s", type=float, default=0.0, help="from a caller's request to its next"
    )
    parser.add_argument("--model", type=Path, help="model folder; default: the default model")
    flags = parser.parse_args(arguments)
    seen = soak(flags.model, flags.seconds, flags.callers, flags.interval_s)
    print_seen(seen)
    return 1 if seen.faults else 0


def print_seen(seen: Soaked) -> None:
    """Print the results: a table, the faults, and one line of JSON."""
    print(processor_name())
    for kind, count in sorted(seen.answers.items()):
        print(f"{count:8d}  {kind}")
    print(f"{seen.given_up:8d}  given up by their callers")
    print(f"memory {min(seen.memory_bytes[:3]) / 1e6:.0f} MB, {seen.growth_bytes / 1e6:+.1f} MB")
    print(f"descriptors {seen.descriptors[0]}, at the end {seen.descriptors[-1]}")
    print("\n".join(seen.faults) if seen.faults else "Each request is accounted exactly once.")
    print(json.dumps({**vars(seen), "answers": dict(seen.answers)}))


def soak(model: Path | None, seconds: float, callers: int, interval_s: float = 0.0) -> Soaked:
    """Start a service and its callers; compare the counts of callers, metrics and audit log.

    Args:
        model: model folder; the default model when None.
        seconds: time during which callers send.
        callers: number of concurrent callers.
        interval_s: shortest time between two requests of a caller.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        key = secrets.token_hex(32)
        (folder / "key").write_text(key)
        flags = ["--audit-log", f"{folder}/audit.jsonl", "--audit-key-file", f"{folder}/key"]
        flags += ["--recheck-interval-s", "5"]
        with running_server(model, flags) as server:
            seen, ids = _let_callers_at(server, seconds, callers, interval_s)
            counted = _counted(server)
        entries = [
            one
            for path in folder.glob("*.jsonl")
            for one in entries_of(path)
            if one["event"] == "segment"
        ]
        verify_files(folder.glob("*.jsonl"), key.encode())
    seen.faults += _faults(seen, ids, counted, Counter(one["request_id"] for one in entries))
    return seen


@dataclass
class _Ids:
    """Ids of the sent requests.

    Attributes:
        answered: status of the answer, for requests with a complete upload.
        given_up: requests with an aborted upload.
    """

    answered: dict[str, int] = field(default_factory=dict)
    given_up: set[str] = field(default_factory=set)


def _let_callers_at(
    server: RunningServer, seconds: float, callers: int, interval_s: float
) -> tuple[Soaked, _Ids]:
    seen, ids, lock = Soaked(), _Ids(), threading.Lock()
    may_send, is_over = threading.Event(), threading.Event()
    kinds = _kinds()

    def send(caller: int) -> None:
        for number in itertools.count():
            if is_over.is_set():
                return
            if not may_send.wait(0.5):
                continue
            next_at = time.monotonic() + interval_s
            kind, image, fields = kinds[(number + caller) % len(kinds)]
            request_id = f"soak-{caller}-{number}"
            if kind == "given up":
                _give_up(server, image, request_id)
                with lock:
                    seen.given_up += 1
                    ids.given_up.add(request_id)
            else:
                status = _send(server, image, fields, request_id)
                with lock:
                    seen.answers[f"{status} {kind}"] += 1
                    ids.answered[request_id] = status
            is_over.wait(next_at - time.monotonic())

    threads = [threading.Thread(target=send, args=(one,)) for one in range(callers)]
    for thread in threads:
        thread.start()
    try:
        may_send.set()
        enough = WARM_UP_ROUNDS * callers * len(kinds)
        _wait_until(lambda: len(ids.answered) + len(ids.given_up) >= enough, timeout_s=600.0)
        for look in range(LOOKS):
            may_send.set()
            time.sleep(seconds / LOOKS)
            may_send.clear()
            if look == LOOKS - 1:
                is_over.set()
            _wait_until(lambda: _figure(server, "lungseg_inflight") == 0)
            time.sleep(PAUSE_S)
            seen.memory_bytes.append(tree_unmapped_bytes(server.process.pid))
            seen.descriptors.append(len(list(Path(f"/proc/{server.process.pid}/fd").iterdir())))
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
    return seen, ids


def _kinds() -> list[tuple[str, bytes, dict[str, str]]]:
    small, large = png_of_size(DEFAULT_IMAGE, 512), png_of_size(DEFAULT_IMAGE, 2048)
    return [
        ("X-ray", small, {"overlay": "false"}),
        ("X-ray of 2048 x 2048", large, {}),
        ("damaged", large[: len(large) // 2], {}),
        ("given up", large, {}),
        ("each lung", small, {"lungs": "each", "overlay": "false"}),
        ("wrong field", small, {"colour": "red"}),
        ("box outside", small, {"bbox": "600,600,700,700"}),
    ]


def _send(server: RunningServer, image: bytes, fields: dict[str, str], request_id: str) -> int:
    """Send one request; return the status of its answer."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=120) as connection:
        head, body = _request(image, fields, request_id)
        connection.sendall(head + body)
        answer = b""
        while b"\r\n" not in answer:
            answer += connection.recv(65536)
        while connection.recv(65536):  # read the whole answer
            pass
    return int(answer.split(b" ", 2)[1])


def _give_up(server: RunningServer, image: bytes, request_id: str) -> None:
    """Send half an upload and close the connection."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=120) as connection:
        head, body = _request(image, {}, request_id)
        connection.sendall(head + body[: len(body) // 2])


def _request(image: bytes, fields: dict[str, str], request_id: str) -> tuple[bytes, bytes]:
    body, content_type = multipart(image, fields)
    head = (
        "POST /segment HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        f"X-Request-ID: {request_id}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode(), body


def _counted(server: RunningServer) -> Counter[int]:
    """Return the service's count of `/segment` answers by status."""
    counted: Counter[int] = Counter()
    for line in _metrics(server).splitlines():
        if line.startswith("lungseg_requests_total{") and 'route="/segment"' in line:
            labels, value = line.rsplit(" ", 1)
            counted[int(labels.split('code="')[1].split('"')[0])] += int(float(value))
    return counted


def _faults(seen: Soaked, ids: _Ids, counted: Counter[int], entries: Counter[str]) -> list[str]:
    faults = []
    told = Counter(ids.answered.values())
    told[499] += seen.given_up
    if +told != +counted:
        faults.append(f"Callers got {dict(+told)}, the service counted {dict(+counted)}.")
    # A wrong field is refused before the X-ray is opened, so such a request has no entry.
    masks = {one for one, status in ids.answered.items() if status == 200}
    missing = masks - set(entries)
    twice = [one for one, count in entries.items() if count > 1]
    strangers = set(entries) - set(ids.answered) - ids.given_up
    for what, found in (("no", missing), ("several", twice), ("a stranger's", strangers)):
        if found:
            faults.append(f"{len(found)} requests have {what} entry in the audit log.")
    statuses = {status for status in told if status not in (200, 400, 422, 499)}
    if statuses:
        faults.append(f"Some answers were {sorted(statuses)}.")
    if seen.growth_bytes >= MOST_GROWTH_BYTES:
        faults.append(f"Memory grew by {seen.growth_bytes / 1e6:.0f} MB.")
    if seen.descriptors[-1] > seen.descriptors[0]:
        faults.append(f"{seen.descriptors[-1] - seen.descriptors[0]} descriptors are left.")
    return faults


def _figure(server: RunningServer, name: str) -> float:
    for line in _metrics(server).splitlines():
        if line.startswith(name + " "):
            return float(line.split()[1])
    raise RuntimeError(f"there is no metric {name}")


def _metrics(server: RunningServer) -> str:
    with socket.create_connection(("127.0.0.1", server.port), timeout=120) as connection:
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        pieces = iter(lambda: connection.recv(65536), b"")
        return b"".join(pieces).decode()


def _wait_until(condition: Callable[[], bool], timeout_s: float = 120.0) -> None:
    stop_by = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > stop_by:
            raise RuntimeError("requests are left inside the service")
        time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main())
