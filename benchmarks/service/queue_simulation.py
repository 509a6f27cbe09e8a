"""A small queueing simulation of the service under load; `capacity` checks it against the service.

It models what determines the rate under overload: callers that send again immediately after an
answer and after a pause when refused, a bounded queue, image workers that open and render, one
model, and processors that all of them share. Its times are processor times of one caller alone, so
other load on the machine does not change them. No parameter is fitted to the overload.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True)
class Station:
    """Seconds of each stage of one X-ray.

    Attributes:
        open_s: decoding and preparing, in an image worker; like the others, processor time.
        model_s: processor time of the network.
        render_s: masks and answer, in an image worker.
        rest_s: processor time of the serving process and the caller.
        refused_s: the same for a request that is refused before its upload.
        idle_s: time without a processor at work: wake-ups and the connection.
    """

    open_s: float
    model_s: float
    render_s: float
    rest_s: float
    refused_s: float = 0.0
    idle_s: float = 0.0

    @property
    def cpu_s(self) -> float:
        """Processor seconds of one X-ray."""
        return self.open_s + self.model_s + self.render_s + self.rest_s


@dataclass(frozen=True)
class SimulatedService:
    """The simulated server.

    Attributes:
        workers: number of image workers.
        queue_limit: largest number of requests that are being opened or wait for the model.
        past_the_model: largest number of requests after the model.
        processors: number of processors that all stages share.
        refused_pause_s: seconds after which a refused caller tries again.
    """

    workers: int
    queue_limit: int
    past_the_model: int
    processors: float
    refused_pause_s: float = 0.25


def simulated_rate(
    station: Station, service: SimulatedService, callers: int, seconds: float = 200.0
) -> float:
    """Return answers a second for callers that pause only after a refusal.

    Stages queue for the workers and the model. While more stages are active than there are
    processors, each runs proportionally slower (processor sharing).

    Args:
        station: measured seconds of each stage.
        service: limits of the server.
        callers: number of concurrent callers.
        seconds: length of the simulated time.
    """
    return _Simulation(station, service, callers).run(seconds)


class _Simulation:
    """Events are ends of stages and of pauses; between two events, all work has the same speed."""

    def __init__(self, station: Station, service: SimulatedService, callers: int) -> None:
        self.station, self.service = station, service
        self.now = self.work_done = 0.0
        self.active: list[tuple[float, int, str]] = []  # (work at its end, number, stage)
        self.pauses: list[tuple[float, int]] = []  # (time at which a caller sends, number)
        self.numbers = itertools.count()
        self.waiting = self.inside = self.answered = 0
        self.for_opening: deque[None] = deque()
        self.for_model: deque[None] = deque()
        self.for_render: deque[None] = deque()
        self.busy_workers, self.is_model_busy = 0, False
        for _ in range(callers):
            self._pause(0.0)

    def run(self, seconds: float) -> float:
        warm_s, before = seconds / 5, 0
        while self.now < seconds:
            self._start()
            speed = min(1.0, self.service.processors / max(1, len(self.active)))
            left = (self.active[0][0] - self.work_done) / speed if self.active else float("inf")
            if self.pauses and self.pauses[0][0] - self.now <= left:
                at, _ = heapq.heappop(self.pauses)
                self.work_done += (at - self.now) * speed
                self.now = at
                self._send()
            else:
                end, _, stage = heapq.heappop(self.active)
                self.now += left
                self.work_done = end
                self._finish(stage)
            if self.now < warm_s:
                before = self.answered
        return (self.answered - before) / (self.now - warm_s)

    def _send(self) -> None:
        most = self.service.queue_limit + self.service.past_the_model
        if self.waiting < self.service.queue_limit and self.inside < most:
            self.waiting += 1
            self.inside += 1
            self.for_opening.append(None)
        else:
            self._begin("refused", self.station.refused_s)

    def _start(self) -> None:
        while self.busy_workers < self.service.workers and (self.for_render or self.for_opening):
            is_render = bool(self.for_render)  # rendering precedes opening
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

    def _pause(self, seconds: float) -> None:
        heapq.heappush(self.pauses, (self.now + seconds, next(self.numbers)))

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
        elif stage == "refused":
            self._pause(self.service.refused_pause_s)
        else:
            self.answered += 1
            self.inside -= 1
            self._pause(self.station.idle_s)
