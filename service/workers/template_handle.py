"""The front's handle on the template process: starts it, requests workers, notices its end."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from service.child_process import start_child
from service.workers.channel import Channel
from service.workers.endings import Ending
from service.workers.framing import Frame, FrameError, Kind
from service.workers.limits import WorkerLimits

_MODULE = "service.workers.template"
_END_TIMEOUT_S = 3.0
ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
"""Variables that keep libraries from starting threads at import, because a fork loses threads."""


@dataclass(frozen=True)
class TemplateEvents:
    """Events of the template.

    Attributes:
        on_warm: it can fork, or has tried to load the extras; called with facts about it.
        on_forked: a worker has this process id.
        on_ended: a worker has ended.
        on_lost: the template has ended, and every worker with it.
    """

    on_warm: Callable[[Mapping[str, Any]], None]
    on_forked: Callable[[int, int], None]
    on_ended: Callable[[int, Ending], None]
    on_lost: Callable[[], None]


class TemplateHandle:
    """A running template.

    Attributes:
        is_warm: whether it can fork.
        has_extras: whether its forks have the extras.
        extras_asked: number of requests to load the extras.
    """

    def __init__(self, tasks: str, limits: WorkerLimits, events: TemplateEvents) -> None:
        """Start the process; it is warm when `on_warm` is called.

        Raises:
            OSError: no process is available.
        """
        self._events = events
        self.is_warm = False
        self.has_extras = False
        self.extras_asked = 0
        connection, self.process = start_child(_MODULE, environment=ENVIRONMENT)
        self._channel = Channel(connection, self._take, self._lost)
        self._channel.send(Frame(Kind.CONFIG, {"tasks": tasks, "limits": limits.as_fields()}))

    def fork(self, number: int) -> socket.socket:
        """Request a worker.

        Args:
            number: the worker's number.

        Returns:
            The front's end of the worker's socket.

        Raises:
            OSError: no descriptor is left.
        """
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                fields = {"worker": number}
                self._channel.send(Frame(Kind.FORK, fields, descriptors=(theirs.fileno(),)))
        except BaseException:
            ours.close()
            raise
        return ours

    def warm_extras(self) -> None:
        """Request the extras; later forks have them."""
        self.extras_asked += 1
        self._channel.send(Frame(Kind.WARM_EXTRAS))

    def kill(self, number: int) -> None:
        """Kill a worker through its parent, which knows that the process id is still valid."""
        self._channel.send(Frame(Kind.KILL, {"worker": number}))

    async def close(self) -> None:
        """End the template, and thereby every worker."""
        self._channel.close()
        ended = asyncio.to_thread(self.process.wait, _END_TIMEOUT_S)
        try:
            await ended
        except subprocess.TimeoutExpired:
            self.kill_now()

    def kill_now(self) -> None:
        """Kill the template, and thereby every worker."""
        self._channel.close()
        self.process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_END_TIMEOUT_S)

    def _take(self, frame: Frame) -> None:
        frame.close()  # the template sends no descriptors
        fields = frame.fields
        if frame.kind is Kind.WARM:
            self.is_warm = True
            self.has_extras = fields["has_extras"]
            self._events.on_warm(fields)
        elif frame.kind is Kind.FORKED:
            self._events.on_forked(fields["worker"], fields["process"])
        elif frame.kind is Kind.ENDED:
            ending = Ending(fields["status"], fields.get("cpu_s", 0.0), fields.get("peak_bytes", 0))
            self._events.on_ended(fields["worker"], ending)
        else:
            raise FrameError(f"{frame.kind.name} came unasked")

    def _lost(self, error: FrameError | None) -> None:
        self.kill_now()
        self._events.on_lost()
