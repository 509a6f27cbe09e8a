"""Callers in separate processes, so that they do not limit the measured rate.

Each process has a few threads, each with a persistent connection. `empty_server` measures their
highest rate: it reads requests and sends fixed answers of the same length, in as many processes as
the callers have.

Such a process runs this module: it reads a plan and prints its results, both as JSON.
"""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.service.load_callers import RAMP_UP_S, REFUSED_PAUSE_S, Outcome
from benchmarks.service.server_process import multipart

THREADS_PER_PROCESS = 4
REQUEST_TIMEOUT_S = 120.0


def callers_in_processes(
    port: int, image: bytes, count: int, seconds: float, fields: Mapping[str, str]
) -> Outcome:
    """Let `count` callers send requests one after the other, four callers in a process.

    Args:
        port: port of the service on the loopback interface.
        image: bytes of the file that all callers send.
        count: number of concurrent callers.
        seconds: length of the phase.
        fields: other form fields.
    """
    body, content_type = multipart(image, fields)
    with tempfile.NamedTemporaryFile() as file:
        file.write(body)
        file.flush()
        plan = {"port": port, "body": file.name, "type": content_type, "seconds": seconds}
        shares = [
            min(THREADS_PER_PROCESS, count - begun)
            for begun in range(0, count, THREADS_PER_PROCESS)
        ]
        processes = [_started(plan | {"threads": share}) for share in shares]
        for process in processes:  # all have imported what they need
            assert process.stdout is not None and process.stdout.readline()
        begin_at = time.monotonic() + 0.2
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(f"{begin_at}\n")
            process.stdin.flush()
        found = [json.loads(process.communicate()[0]) for process in processes]
    outcome = Outcome(seconds)
    for one in found:
        outcome.statuses += Counter({int(k): v for k, v in one["statuses"].items()})
        outcome.good_s += one["good_s"]
        outcome.refused_s += one["refused_s"]
        outcome.steady_good += one["steady_good"]
    return outcome


@contextmanager
def empty_server(processes: int, answer_bytes: int) -> Generator[int, None, None]:
    """Serve a port that answers every request with a fixed body.

    Args:
        processes: number of processes that share the port.
        answer_bytes: length of an answer's body.
    """
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        port: int = listener.getsockname()[1]
        command = [sys.executable, "-m", "benchmarks.service.caller_processes"]
        arguments = ["--answer", str(listener.fileno()), str(answer_bytes)]
        servers = [
            subprocess.Popen([*command, *arguments], pass_fds=[listener.fileno()])
            for _ in range(processes)
        ]
        try:
            yield port
        finally:
            for server in servers:
                server.kill()
                server.wait()


def _started(plan: Mapping[str, Any]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.service.caller_processes", json.dumps(plan)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _call(plan: Mapping[str, Any]) -> dict[str, Any]:
    """Run the threads of one caller process; return their results."""
    body = Path(plan["body"]).read_bytes()
    outcome, lock = Outcome(plan["seconds"]), threading.Lock()
    print("ready", flush=True)
    began = float(sys.stdin.readline())
    time.sleep(max(0.0, began - time.monotonic()))

    def call() -> None:
        connection = http.client.HTTPConnection(
            "127.0.0.1", plan["port"], timeout=REQUEST_TIMEOUT_S
        )
        while time.monotonic() - began < plan["seconds"]:
            asked_at = time.monotonic()
            try:
                connection.request("POST", "/segment", body, {"Content-Type": plan["type"]})
                answer = connection.getresponse()
                answer.read()
                status = answer.status
            except (OSError, http.client.HTTPException):
                status = 0
                connection.close()
            now = time.monotonic()
            with lock:
                outcome.statuses[status] += 1
                if status == 200:
                    outcome.good_s.append(now - asked_at)
                    outcome.steady_good += RAMP_UP_S <= now - began < plan["seconds"]
                elif status == 429:
                    outcome.refused_s.append(now - asked_at)
            if status != 200:
                time.sleep(REFUSED_PAUSE_S)

    threads = [threading.Thread(target=call) for _ in range(plan["threads"])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {
        "statuses": dict(outcome.statuses),
        "good_s": outcome.good_s,
        "refused_s": outcome.refused_s,
        "steady_good": outcome.steady_good,
    }


def _answer_all(listener: socket.socket, answer_bytes: int) -> None:
    answer = f"HTTP/1.1 200 OK\r\nContent-Length: {answer_bytes}\r\n\r\n".encode()
    answer += bytes(answer_bytes)
    while True:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=_answer, args=(connection, answer), daemon=True).start()


def _answer(connection: socket.socket, answer: bytes) -> None:
    """Read requests with a stated length, one after the other, and answer each."""
    place = bytearray(1 << 18)
    with connection:
        while True:
            head = b""
            while b"\r\n\r\n" not in head:
                piece = connection.recv(65536)
                if not piece:
                    return
                head += piece
            head, _, rest = head.partition(b"\r\n\r\n")
            missing = int(head.lower().split(b"content-length:")[1].split()[0]) - len(rest)
            while missing > 0:
                missing -= connection.recv_into(place, min(missing, len(place)))
            connection.sendall(answer)


def main() -> int:
    """Run one process; return 0, the exit code."""
    if sys.argv[1] == "--answer":
        _answer_all(socket.socket(fileno=int(sys.argv[2])), int(sys.argv[3]))
    else:
        print(json.dumps(_call(json.loads(sys.argv[1]))), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
