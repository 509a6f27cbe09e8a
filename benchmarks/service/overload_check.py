"""The queueing simulation compared with the real server, for `capacity --check`.

The kernel's processor times are read while one caller is served: of serving process and caller, of
the compute process, and of the image workers. The cost of a refusal is measured with an `Accept`
that cannot be met, because it is refused equally early. The simulation of each overload point gets
fewer processors if other programs used some while it was measured.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.processor import processor_name
from benchmarks.service.load import IMAGE_SIDE_PX, QUEUE_PLACES
from benchmarks.service.load_callers import REFUSED_PAUSE_S, OtherWork, callers
from benchmarks.service.process_memory import process_tree
from benchmarks.service.queue_simulation import SimulatedService, Station, simulated_rate
from benchmarks.service.segment_latency import DEFAULT_IMAGE, png_of_size
from benchmarks.service.server_process import RunningServer, running_server

LARGEST_ERROR = 0.1
ONE_BY_ONE = 40
_WARM_REQUESTS = 5
_WORKERS = 2
_COMPUTE = b"service.compute.compute_process"
_PAST_THE_MODEL = 16


@dataclass
class _Spent:
    """Processor seconds within a block.

    Attributes:
        serving: of the serving process and of the caller, which is this process.
        compute: of the compute process.
        workers: of the image workers and the process that forks them.
    """

    serving: float = 0.0
    compute: float = 0.0
    workers: float = 0.0
    seconds: list[float] = field(default_factory=list)


def check(seconds: float) -> int:
    """Print measured and simulated rates of each number of callers.

    Args:
        seconds: length of each measurement.

    Returns:
        1 if a point differs by more than a tenth.
    """
    image = png_of_size(DEFAULT_IMAGE, IMAGE_SIDE_PX)
    flags = ["--queue-limit", str(QUEUE_PLACES), "--image-workers", str(_WORKERS), "--threads", "1"]
    processors = len(os.sched_getaffinity(0))
    worst = 0.0
    with running_server(None, flags) as server:
        station = measured_station(server, image)
        print(f"{processor_name()}, {processors} processors; {station}", flush=True)
        for count in (1, 2, 4, 8, 4 * (QUEUE_PLACES + 1)):
            others = OtherWork(server)
            measured = callers(server, image, count, seconds).goodput
            left = max(0.1, processors - others.cores())
            service = SimulatedService(
                _WORKERS, QUEUE_PLACES, _PAST_THE_MODEL, left, REFUSED_PAUSE_S
            )
            simulated = simulated_rate(station, service, count)
            error = simulated / measured - 1
            worst = max(worst, abs(error))
            point = {"callers": count, "processors_left": left, "measured_per_s": measured}
            point |= {"simulated_per_s": simulated, "error": error}
            print(json.dumps({name: round(value, 3) for name, value in point.items()}), flush=True)
    print(json.dumps({"largest_error": round(worst, 3), "goal": LARGEST_ERROR}))
    return 0 if worst <= LARGEST_ERROR else 1


def measured_station(server: RunningServer, image: bytes) -> Station:
    """Return the times of one caller alone.

    Args:
        server: ready server without other callers.
        image: bytes of the X-ray file.
    """
    for _ in range(_WARM_REQUESTS):
        server.segment(image, {})
    opened, rendered = [], []
    with _spent(server) as spent:
        for _ in range(ONE_BY_ONE):
            answer = server.segment(image, {})
            told = json.loads(answer.body)["latency_ms"]
            spent.seconds.append(answer.seconds)
            opened.append(told["decode"] + told["preprocess"])
            rendered.append(told["postprocess"] + told["render"])
    with _spent(server) as refused:
        for _ in range(ONE_BY_ONE):
            if server.segment(image, {}, accept="text/plain").status != 406:
                raise SystemExit("a request that cannot be met was not refused")
    share = sum(opened) / (sum(opened) + sum(rendered))
    workers_s = spent.workers / ONE_BY_ONE
    station = Station(
        open_s=workers_s * share,
        model_s=spent.compute / ONE_BY_ONE,
        render_s=workers_s * (1 - share),
        rest_s=spent.serving / ONE_BY_ONE,
        refused_s=(refused.serving + refused.workers) / ONE_BY_ONE,
    )
    idle_s = max(0.0, statistics.median(spent.seconds) - station.cpu_s)
    return Station(**{**vars(station), "idle_s": idle_s})


@contextmanager
def _spent(server: RunningServer) -> Iterator[_Spent]:
    """Yield an object that holds the processor seconds of the block after its end."""
    spent = _Spent()
    before, began = _by_part(server), time.process_time()
    yield spent
    after, own_s = _by_part(server), time.process_time() - began
    spent.serving = after["serving"] - before["serving"] + own_s
    spent.compute = after["compute"] - before["compute"]
    spent.workers = after["workers"] - before["workers"]


def _by_part(server: RunningServer) -> dict[str, float]:
    """Return the processor seconds so far by part, including ended processes."""
    found = dict.fromkeys(("serving", "compute", "workers"), 0.0)
    serving = server.process.pid
    for process in process_tree(serving):
        try:
            command = Path(f"/proc/{process}/cmdline").read_bytes()
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended; its parent counts it
            continue
        ticks = [int(one) for one in fields[11:15]]  # own, and of children that have ended
        if process == serving:
            part, ticks = "serving", ticks[:2]
        else:
            part = "compute" if _COMPUTE in command else "workers"
        found[part] += sum(ticks) / os.sysconf("SC_CLK_TCK")
    return found
