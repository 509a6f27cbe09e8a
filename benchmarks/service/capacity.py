"""From the measured cost of an X-ray to hosts, and a queueing simulation that is checked here.

    python -m benchmarks.service.capacity                # the tables of docs/scaling.md
    python -m benchmarks.service.capacity --check 5      # overload measured and simulated, beside

The simulation has what decides under overload: callers who send again at once when answered or
refused, a bounded number of waiting places, image workers that open and render, one model. Its
service times are those of one caller alone; nothing of the overload is fitted. `--check` starts the
real server, measures those times and then the overload curve, and fails when a point with waiting
callers is off by more than a tenth. Callers share the processors with the server, so the check
counts what is left to it: a core that is busy with callers stretches every stage.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import math
import os
import statistics
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.processor import processor_name

DAY_S = 86_400
XRAYS_A_DAY = (10**4, 10**6, 10**8)
PEAK_OVER_MEAN = 3.0
"""A hospital's busiest hour over its mean; an archive has no peak."""
LARGEST_ERROR = 0.1


@dataclass(frozen=True)
class Station:
    """Seconds of processor that one X-ray takes.

    Attributes:
        open_s: decoding and preparing, in an image worker.
        model_s: the network.
        render_s: masks and answer, in an image worker.
        rest_s: of the serving process and of the caller beside it.
    """

    open_s: float
    model_s: float
    render_s: float
    rest_s: float

    @property
    def total_s(self) -> float:
        """Seconds of one X-ray alone."""
        return self.open_s + self.model_s + self.render_s + self.rest_s


@dataclass(frozen=True)
class House:
    """What serves.

    Attributes:
        workers: image workers.
        queue_limit: callers that may wait for the model, being opened or queued.
        past_the_model: callers that may be past it.
        processors: that all stages share.
    """

    workers: int
    queue_limit: int
    past_the_model: int
    processors: float


def simulated_rate(station: Station, house: House, callers: int, seconds: float = 200.0) -> float:
    """Return answers a second for callers who never pause.

    Stages take turns at the workers and the model; while more stages are active than there are
    processors, each goes as much slower (processor sharing).

    Args:
        station: seconds of each stage.
        house: what serves.
        callers: how many call at a time.
        seconds: simulated time.
    """
    simulation = _Simulation(station, house, callers)
    return simulation.run(seconds)


class _Simulation:
    """Events are ends of stages; work goes on at a common speed between two events."""

    def __init__(self, station: Station, house: House, callers: int) -> None:
        self.station, self.house = station, house
        self.now = self.work_done = 0.0
        self.active: list[tuple[float, int, str]] = []  # (work at its end, number, stage)
        self.numbers = itertools.count()
        self.waiting = self.inside = self.answered = 0
        self.for_opening: deque[None] = deque()
        self.for_model: deque[None] = deque()
        self.for_render: deque[None] = deque()
        self.busy_workers, self.is_model_busy = 0, False
        self.outside = callers

    def run(self, seconds: float) -> float:
        warm_s, before = seconds / 5, 0
        while self.now < seconds:
            self._admit()
            self._start()
            if not self.active:
                break
            end, _, stage = heapq.heappop(self.active)
            speed = min(1.0, self.house.processors / (len(self.active) + 1))
            self.now += (end - self.work_done) / speed
            self.work_done = end
            self._finish(stage)
            if self.now < warm_s:
                before = self.answered
        return (self.answered - before) / (self.now - warm_s)

    def _admit(self) -> None:
        most = self.house.queue_limit + self.house.past_the_model
        while self.outside and self.waiting < self.house.queue_limit and self.inside < most:
            self.outside -= 1
            self.waiting += 1
            self.inside += 1
            self.for_opening.append(None)

    def _start(self) -> None:
        while self.busy_workers < self.house.workers and (self.for_render or self.for_opening):
            is_render = bool(self.for_render)  # what the network has answered goes first
            (self.for_render if is_render else self.for_opening).popleft()
            self.busy_workers += 1
            stage = "render" if is_render else "open"
            self._begin(stage, self.station.render_s if is_render else self.station.open_s)
        if self.for_model and not self.is_model_busy:
            self.for_model.popleft()
            self.waiting -= 1
            self.is_model_busy = True
            self._begin("model", self.station.model_s)

    def _begin(self, stage: str, work_s: float) -> None:
        heapq.heappush(self.active, (self.work_done + work_s, next(self.numbers), stage))

    def _finish(self, stage: str) -> None:
        if stage == "open":
            self.busy_workers -= 1
            self.for_model.append(None)
        elif stage == "model":
            self.is_model_busy = False
            self.for_render.append(None)
        elif stage == "render":
            self.busy_workers -= 1
            self._begin("rest", self.station.rest_s)
        else:
            self.answered += 1
            self.inside -= 1
            self.outside += 1


@dataclass(frozen=True)
class Cost:
    """What one X-ray takes of each resource.

    Attributes:
        cpu_s: seconds of a processor, network included where there is no GPU.
        gpu_s: seconds of a GPU.
        in_bytes: read from disk or network.
        out_bytes: written.
    """

    cpu_s: float
    gpu_s: float
    in_bytes: float
    out_bytes: float


@dataclass(frozen=True)
class Host:
    """What a host has.

    Attributes:
        processors: cores.
        gpus: GPUs.
        network_bytes_per_s: bytes a second of its network.
        watts: power under load.
        price_per_hour: in any currency.
        share: of its processors and GPUs that is planned for.
    """

    processors: float
    gpus: float
    network_bytes_per_s: float
    watts: float
    price_per_hour: float
    share: float = 0.8


def hosts_for(xrays_a_day: float, peak: float, cost: Cost, host: Host) -> tuple[int, str, str]:
    """Return how many hosts it takes, what runs out first, and what is next.

    Args:
        xrays_a_day: X-rays.
        peak: busiest hour over the mean.
        cost: of an X-ray.
        host: one of them.
    """
    rate = xrays_a_day * peak / DAY_S
    loads = {
        "processors": rate * cost.cpu_s / (host.processors * host.share),
        "network": rate * (cost.in_bytes + cost.out_bytes) / host.network_bytes_per_s,
    }
    if cost.gpu_s:
        loads["GPU"] = rate * cost.gpu_s / (host.gpus * host.share)
    first, second = sorted(loads, key=lambda name: -loads[name])[:2]
    return max(1, math.ceil(loads[first])), first, second


def plan(cost: Cost, host: Host) -> list[str]:
    """Return the lines of the table: hosts, bottlenecks, energy and price a day."""
    lines = ["| X-rays a day | peak | hosts | first bottleneck | next | kWh a day | price a day |"]
    lines.append("|---|---|---|---|---|---|---|")
    for xrays in XRAYS_A_DAY:
        for name, peak in (("archive", 1.0), ("hospital", PEAK_OVER_MEAN)):
            count, first, second = hosts_for(xrays, peak, cost, host)
            kwh = count * host.watts * 24 / 1000
            price = count * host.price_per_hour * 24
            lines.append(
                f"| 1e{round(math.log10(xrays))} | {name}, {peak:g} | {count:,} | {first} | "
                f"{second} | {kwh:,.0f} | {price:,.0f} |"
            )
    return lines


def measured_station(seconds: float) -> tuple[Station, list[dict[str, float]]]:
    """Measure one caller, then more of them, on the real server."""
    from benchmarks.service.load import IMAGE_SIDE_PX, QUEUE_PLACES
    from benchmarks.service.load_callers import callers
    from benchmarks.service.segment_latency import DEFAULT_IMAGE, png_of_size
    from benchmarks.service.server_process import running_server

    image = png_of_size(DEFAULT_IMAGE, IMAGE_SIDE_PX)
    flags = ["--queue-limit", str(QUEUE_PLACES), "--image-workers", "2", "--threads", "1"]
    with running_server(None, flags) as server:
        told = []
        for _ in range(20):
            answer = server.segment(image, {})
            told.append((json.loads(answer.body)["latency_ms"], answer.seconds))
        station = _station_of(told[3:])
        points = []
        for count in (1, 2, 4, 8, 4 * (QUEUE_PLACES + 1)):
            outcome = callers(server, image, count, seconds)
            points.append({"callers": count, "measured_per_s": outcome.goodput})
    return station, points


def _station_of(told: Sequence[tuple[dict[str, float], float]]) -> Station:
    def median_s(*names: str) -> float:
        return statistics.median(sum(one[name] for name in names) / 1000 for one, _ in told)

    whole_s = statistics.median(seconds for _, seconds in told)
    open_s = median_s("decode", "preprocess")
    model_s = median_s("encode_image", "decode_mask")
    render_s = median_s("postprocess", "render")
    return Station(open_s, model_s, render_s, max(0.0, whole_s - open_s - model_s - render_s))


def check(seconds: float) -> int:
    """Print measured and simulated rates; return 1 where one under load is off by a tenth."""
    station, points = measured_station(seconds)
    processors = len(os.sched_getaffinity(0))
    house = House(workers=2, queue_limit=8, past_the_model=16, processors=processors)
    print(f"{processor_name()}, {processors} processors; {station}")
    worst = 0.0
    for point in points:
        point["simulated_per_s"] = simulated_rate(station, house, int(point["callers"]))
        point["error"] = point["simulated_per_s"] / point["measured_per_s"] - 1
        worst = max(worst, abs(point["error"]))
        print(json.dumps({name: round(value, 3) for name, value in point.items()}), flush=True)
    print(json.dumps({"largest_error": round(worst, 3), "goal": LARGEST_ERROR}))
    return 0 if worst <= LARGEST_ERROR else 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the plan, or check the simulation."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add = parser.add_argument
    add("--check", type=float, metavar="SECONDS", help="measure overload so long at each point")
    add("--cpu-s", type=float, default=0.094, help="seconds of a processor for an X-ray")
    add("--gpu-s", type=float, default=0.0, help="seconds of a GPU for an X-ray")
    add("--in-bytes", type=float, default=1.2e6, help="of an X-ray's file")
    add("--out-bytes", type=float, default=2e4, help="of its row and mask")
    add("--processors", type=float, default=16)
    add("--gpus", type=float, default=1)
    add("--network-gbit", type=float, default=10)
    add("--watts", type=float, default=300)
    add("--price-per-hour", type=float, default=1)
    flags = parser.parse_args(arguments)
    if flags.check:
        return check(flags.check)
    cost = Cost(flags.cpu_s, flags.gpu_s, flags.in_bytes, flags.out_bytes)
    network = flags.network_gbit * 1e9 / 8
    host = Host(flags.processors, flags.gpus, network, flags.watts, flags.price_per_hour)
    print(f"{cost}; {host}")
    print("\n".join(plan(cost, host)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
