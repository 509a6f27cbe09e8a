"""Callers of a running server: concurrent ones, ones that retry, and mixed requests."""

from __future__ import annotations

import io
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.service.process_memory import process_tree
from benchmarks.service.server_process import RunningServer

RAMP_UP_S = 1.0
REFUSED_PAUSE_S = 0.25


@dataclass
class Outcome:
    """The answers of one phase.

    Attributes:
        seconds: length of the phase; later answers are not counted in it.
        statuses: number of answers by status; 0 stands for a broken connection.
        good_s: seconds of each answer 200.
        refused_s: seconds of each answer 429.
        steady_good: answers 200 between `RAMP_UP_S` and the end of the phase.
    """

    seconds: float
    statuses: Counter[int] = field(default_factory=Counter)
    good_s: list[float] = field(default_factory=list)
    refused_s: list[float] = field(default_factory=list)
    steady_good: int = 0

    @property
    def goodput(self) -> float:
        """Answers 200 a second while all callers were sending."""
        return self.steady_good / (self.seconds - RAMP_UP_S)


def callers(server: RunningServer, image: bytes, count: int, seconds: float) -> Outcome:
    """Let `count` callers send one request after the other; refused ones pause a little."""
    outcome = Outcome(seconds)
    lock = threading.Lock()
    began = time.monotonic()

    def call() -> None:
        while time.monotonic() - began < seconds:
            try:
                answer = server.segment(image, {})
                status, spent_s = answer.status, answer.seconds
            except OSError:
                status, spent_s = 0, 0.0
            with lock:
                outcome.statuses[status] += 1
                if status == 200:
                    outcome.good_s.append(spent_s)
                    outcome.steady_good += RAMP_UP_S <= time.monotonic() - began < seconds
                elif status == 429:
                    outcome.refused_s.append(spent_s)
            if status != 200:
                time.sleep(REFUSED_PAUSE_S)

    _together(count, call)
    return outcome


def patient_callers(server: RunningServer, image: bytes, count: int, each: int) -> tuple[int, int]:
    """Let `count` callers with the documented retry loop send `each` requests.

    Returns:
        Number of requests with a mask, and of all requests.
    """
    from service.client import Client, SegmentError  # needs the extra `client`

    done: Counter[bool] = Counter()
    lock = threading.Lock()

    def call() -> None:
        with Client(f"http://127.0.0.1:{server.port}") as client:
            for _ in range(each):
                try:
                    client.segment(image)
                    found = True
                except SegmentError:
                    found = False
                with lock:
                    done[found] += 1

    _together(count, call)
    return done[True], count * each


def mixed_requests(server: RunningServer, count: int, callers_count: int = 8) -> Counter[int]:
    """Send good and bad requests of many kinds and sizes; return the statuses."""
    statuses: Counter[int] = Counter()
    lock = threading.Lock()
    numbers = iter(range(count))

    def call() -> None:
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            image, fields = _mixed(number)
            try:
                status = server.segment(image, fields).status
            except OSError:
                status = 0
            with lock:
                statuses[status] += 1

    _together(callers_count, call)
    return statuses


def _mixed(number: int) -> tuple[bytes, Mapping[str, str]]:
    """Make the request of this number: six in ten are good, of many sizes."""
    chance = random.Random(number)
    side = chance.choice((64, 200, 333, 512, 700, 1024))
    width = side + chance.randrange(40)
    pixels = np.random.default_rng(number).integers(0, 256, (side // 8, width // 8), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((width, side)).save(buffer, "PNG", compress_level=1)
    image = buffer.getvalue()
    return {
        0: (image[: len(image) // 2], {}),
        1: (b"no image", {}),
        2: (image, {"bbox": "5,5,1,1"}),
        3: (image, {f"field{number}": "x"}),
    }.get(number % 10, (image, {"overlay": chance.choice(("true", "false"))}))


def _together(count: int, call: Callable[[], None]) -> None:
    threads = [threading.Thread(target=call) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class OtherWork:
    """Counts the cores that other programs use, because figures of a busy machine mislead."""

    def __init__(self, server: RunningServer | None = None, own: Sequence[int] = ()) -> None:
        """Start to count.

        Args:
            server: server whose processes do not count as others.
            own: ids of further processes that do not count as others.
        """
        self._own = [os.getpid(), *own]
        if server is not None:
            self._own += process_tree(server.process.pid)
        self._began = (time.monotonic(), _all_ticks(), self._own_ticks())

    def cores(self) -> float:
        """Return cores used by others since the start, on average."""
        began, all_then, own_then = self._began
        others = (_all_ticks() - all_then) - (self._own_ticks() - own_then)
        return max(0.0, others / os.sysconf("SC_CLK_TCK") / (time.monotonic() - began))

    def _own_ticks(self) -> int:
        return sum(_ticks_of(process) for process in self._own)


def process_ids(server: RunningServer) -> list[int]:
    """Return the ids of the serving process and of its compute process."""
    serving = server.process.pid
    threads = Path(f"/proc/{serving}/task").iterdir()
    children = " ".join((thread / "children").read_text() for thread in threads).split()
    return [serving, *map(int, children)]


def resident_bytes(server: RunningServer) -> int:
    """Return the main memory of both processes."""
    pages = (Path(f"/proc/{one}/statm").read_text().split()[1] for one in process_ids(server))
    return sum(map(int, pages)) * os.sysconf("SC_PAGE_SIZE")


def _all_ticks() -> int:
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    ticks = [int(one) for one in fields]
    return sum(ticks) - ticks[3] - ticks[4]  # less idle and waiting for disks


def _ticks_of(process: int) -> int:
    """Return the processor time of a process and its ended children; 0 if it has ended."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0
    return sum(map(int, fields[11:15]))
