"""A small queueing simulation of the service under load, checked beside the real one by `capacity`.

It has what decides under overload: callers who send again at once when answered and after a pause
when refused, a bounded number of waiting places, image workers that open and render, one model, and
processors that all of them share. Its times are processor times of one caller alone, so what the
machine does beside does not stretch them; nothing of the overload is fitted.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True)
class Station:
    """Seconds that one X-ray takes.

    Attributes:
        open_s: decoding and preparing, in an image worker; processor time as all of these.
        model_s: the network.
        render_s: masks and answer, in an image worker.
        rest_s: of the serving process and of the caller beside it.
        refused_s: of both, for a request that is refused before its upload.
        idle_s: in which no processor works for it: wake-ups and the connection.
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
    """What serves.

    Attributes:
        workers: image workers.
        queue_limit: callers that may wait for the model, being opened or queued.
        past_the_model: callers that may be past it.
        processors: that all stages share.
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
    """Return answers a second for callers who never pause unless they are refused.

    Stages take turns at the workers and the model; while more stages are active than there are
    processors, each goes as much slower (processor sharing).

    Args:
        station: seconds of each stage.
        service: what serves.
        callers: how many call at a time.
        seconds: simulated time.
    """
    return _Simulation(station, service, callers).run(seconds)


class _Simulation:
    """Events are ends of stages and of pauses; work goes on at a common speed between two."""

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
