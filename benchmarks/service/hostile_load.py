"""What hostile uploads do to `/livez`, to honest callers and to memory, file by file.

`python -m benchmarks.service.hostile_load FOLDER [--seconds 60] [--callers 8]` starts the real
server. For each file of the folder (`python -m tests.service.costly_files FOLDER` makes some) it
lets that many callers send it one after the other, while `/livez` is asked every 20 ms and two
honest callers send an X-ray. Printed: the answers by code, the slowest `/livez`, the 95th
percentile of honest callers beside the same without hostile ones, and the memory of all processes:
most, and a while afterwards. `NAME.boxes` beside a file holds boxes, one a line.
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.processor import processor_name
from benchmarks.service.process_memory import tree_pss_bytes
from benchmarks.service.segment_latency import DEFAULT_IMAGE, png_of_size
from benchmarks.service.server_process import RunningServer, running_server

LIVEZ_PERIOD_S = 0.02
HONEST_CALLERS = 2
SETTLE_S = 5.0
_MB = 1e6


@dataclass
class Seen:
    """What was seen in one phase.

    Attributes:
        answers: hostile answers by status and code.
        livez_s: seconds of each `/livez`.
        honest_s: seconds of each honest answer 200.
        honest_other: honest answers that were none, by status.
        most_bytes: most memory of all processes.
    """

    answers: Counter[str] = field(default_factory=Counter)
    livez_s: list[float] = field(default_factory=list)
    honest_s: list[float] = field(default_factory=list)
    honest_other: Counter[int] = field(default_factory=Counter)
    most_bytes: int = 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints.

    Args:
        arguments: command-line arguments; those of the process when None.

    Returns:
        0, or 1 when the server died.
    """
    parser = argparse.ArgumentParser(prog="hostile_load")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--callers", type=int, default=8)
    parser.add_argument("--flags", default="", help="flags of the service, in one string")
    parser.add_argument("--probe", type=Path, help="file for what holds up the front's event loop")
    options = parser.parse_args(arguments)
    print(f"on {processor_name()}, {options.callers} callers for {options.seconds:g} s each\n")
    honest = png_of_size(DEFAULT_IMAGE, 1024)
    rows = []
    program = ["benchmarks.service.probed_front", str(options.probe)] if options.probe else ["service"]
    with running_server(None, options.flags.split(), program=program) as server:
        for _ in range(3):
            server.segment(honest, {})
        idle_bytes = tree_pss_bytes(server.process.pid)
        alone = watch(server, honest, None, [], 0, min(options.seconds, 20.0))
        _print("(nobody)", alone, alone, idle_bytes)
        for path in sorted(options.folder.iterdir()):
            if path.suffix == ".boxes":
                continue
            boxes = _boxes(path)
            seen = watch(server, honest, path.read_bytes(), boxes, options.callers, options.seconds)
            time.sleep(SETTLE_S)
            after_bytes = tree_pss_bytes(server.process.pid)
            _print(path.name, seen, alone, after_bytes)
            rows.append(_row(path.name, seen, after_bytes))
            if server.process.poll() is not None:
                print("the server has ended", file=sys.stderr)
                return 1
    print(json.dumps({"idle_mb": round(idle_bytes / _MB), "files": rows}))
    return 0


def watch(
    server: RunningServer,
    honest: bytes,
    hostile: bytes | None,
    boxes: Sequence[str],
    callers: int,
    seconds: float,
) -> Seen:
    """Lets hostile and honest callers loose, and watches."""
    seen, until_s = Seen(), time.monotonic() + seconds

    def send_hostile() -> None:
        assert hostile is not None
        status, body = post(server.port, hostile, boxes)
        seen.answers[f"{status} {code_in(body)}"] += 1

    def send_honest() -> None:
        answer = server.segment(honest, {})
        if answer.status == 200:
            seen.honest_s.append(answer.seconds)
        else:
            seen.honest_other[answer.status] += 1
            time.sleep(0.1)

    def ask_livez() -> None:
        began = time.perf_counter()
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        connection.request("GET", "/livez")
        connection.getresponse().read()
        connection.close()
        seen.livez_s.append(time.perf_counter() - began)
        time.sleep(LIVEZ_PERIOD_S)

    def weigh() -> None:
        seen.most_bytes = max(seen.most_bytes, tree_pss_bytes(server.process.pid))
        time.sleep(0.5)

    work = [send_hostile] * callers + [send_honest] * HONEST_CALLERS + [ask_livez, weigh]
    threads = [threading.Thread(target=_repeat, args=(each, until_s)) for each in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seen


def post(port: int, image: bytes, boxes: Sequence[str]) -> tuple[int, bytes]:
    """Sends one upload with any number of boxes; 0 stands for a broken connection."""
    boundary = "hostile"
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="bbox"\r\n\r\n{box}\r\n'.encode()
        for box in boxes
    ]
    disposition = 'Content-Disposition: form-data; name="image"; filename="x"'
    parts.append(f"--{boundary}\r\n{disposition}\r\n\r\n".encode())
    body = b"".join([*parts, image, f"\r\n--{boundary}--\r\n".encode()])
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request("POST", "/segment", body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()


def code_in(body: bytes) -> str:
    """Returns the code of a refusal, `mask` for an answer, `-` for nothing."""
    if not body:
        return "-"
    try:
        return str(json.loads(body).get("code", "mask"))
    except ValueError:
        return "no JSON"


def _repeat(work: Callable[[], None], until_s: float) -> None:
    while time.monotonic() < until_s:
        try:
            work()
        except OSError:
            time.sleep(0.1)


def _boxes(path: Path) -> list[str]:
    beside = path.with_name(path.name + ".boxes")
    return beside.read_text(encoding="ascii").split() if beside.exists() else []


def _row(name: str, seen: Seen, after_bytes: int) -> dict[str, object]:
    return {
        "file": name,
        "answers": dict(seen.answers),
        "livez_worst_ms": round(1000 * max(seen.livez_s, default=0.0)),
        "honest_p95_ms": round(1000 * _p95(seen.honest_s)),
        "honest_other": dict(seen.honest_other),
        "most_mb": round(seen.most_bytes / _MB),
        "after_mb": round(after_bytes / _MB),
    }


def _print(name: str, seen: Seen, alone: Seen, after_bytes: int) -> None:
    row = _row(name, seen, after_bytes)
    times = _p95(seen.honest_s) / _p95(alone.honest_s) if seen.honest_s else float("inf")
    answers = ", ".join(f"{n} x {what}" for what, n in seen.answers.most_common())
    print(
        f"{name:28s} livez {row['livez_worst_ms']:>6} ms, honest {row['honest_p95_ms']:>6} ms "
        f"({times:.1f} x, {len(seen.honest_s)} masks, others {dict(seen.honest_other)}), "
        f"{row['most_mb']} MB, then {row['after_mb']} MB: {answers}",
        flush=True,
    )


def _p95(seconds: Sequence[float]) -> float:
    if len(seconds) < 2:
        return max(seconds, default=0.0)
    return statistics.quantiles(seconds, n=20)[-1]


if __name__ == "__main__":
    sys.exit(main())
