"""The serving process's handle on one front: connections go there, and requests come back.

A front can end, and it can hang: stopped, out of memory, or in a call that does not return. A hung
front is silent, like one without callers. So it is pinged each second. Unanswered pings are
counted, not seconds: if the serving process itself stands still, it sends no pings and counts no
front as hung.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp

from service.child_process import start_child
from service.fronts.front_requests import FrontRequests
from service.http.mask_source import ServedMasks
from service.workers.channel import Channel
from service.workers.framing import Frame, FrameError, Kind

_MODULE = "service.fronts.front_process"

BEAT_S = 1.0
"""Seconds between two pings of a front."""
SILENT_AFTER = 2
"""Unanswered pings after which other fronts get new connections."""
HUNG_AFTER = 10
"""Unanswered pings after which a front is killed. The largest upload delays its event loop by some
milliseconds, and short memory by a second."""
NOT_STARTED_AFTER = 60
"""The same for a front that is not ready yet, which takes a second or two."""


@dataclass(frozen=True)
class FrontEvents:
    """Events of a front beside requests.

    Attributes:
        on_ready: it takes connections.
        on_change: it has another number of connections.
        on_closed: it closed so many connections, for this reason.
        on_unparsed: so many requests were not HTTP.
        on_log_lost: it could not write so many more lines of its log.
        on_lost: it has ended, or has hung and was ended; with which of the two.
    """

    on_ready: Callable[[FrontHandle], None]
    on_change: Callable[[], None]
    on_closed: Callable[[str, int], None]
    on_unparsed: Callable[[int], None]
    on_log_lost: Callable[[int], None]
    on_lost: Callable[[FrontHandle, str], None]


class FrontHandle:
    """A running front.

    Attributes:
        is_ready: whether it accepts connections.
        connections: number of its open connections.
        unanswered: unanswered pings in a row.
    """

    def __init__(
        self, config: dict[str, Any], masks: ServedMasks, app: ASGIApp, events: FrontEvents
    ) -> None:
        """Start the process; it is ready when `on_ready` is called.

        Args:
            config: its settings, as JSON.
            masks: answers its requests for masks.
            app: answers its other requests.
            events: callbacks for its events.

        Raises:
            OSError: no process is available.
        """
        self.is_ready = False
        self.connections = 0
        self.unanswered = 0
        self._log_lines_lost = 0
        self._events = events
        connection, self.process = start_child(_MODULE)
        self._channel = Channel(connection, self._take, self._lost)
        self._requests = FrontRequests(masks, app, self._channel.send)
        self._channel.send(Frame(Kind.CONFIG, config))
        self._beat = asyncio.get_running_loop().call_later(BEAT_S, self._ask)

    @property
    def is_silent(self) -> bool:
        """Whether it may hang: some pings are unanswered."""
        return self.unanswered >= SILENT_AFTER

    def hand(self, connection: socket.socket) -> None:
        """Pass a caller's connection to it and close our copy.

        Raises:
            OSError: no descriptor is available.
        """
        with connection:
            self._channel.send(Frame(Kind.CONNECTION, descriptors=(connection.fileno(),)))
        self.connections += 1

    async def stop(self, timeout_s: float) -> None:
        """Let it answer its callers and end; kill it if that takes too long."""
        self._beat.cancel()
        self._channel.send(Frame(Kind.STOP))
        try:
            await asyncio.to_thread(self.process.wait, timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            await asyncio.to_thread(self.process.wait)
        self._channel.close()
        self._requests.close()

    def _ask(self) -> None:
        """Ping it; kill it after too many unanswered pings."""
        if self.unanswered >= (HUNG_AFTER if self.is_ready else NOT_STARTED_AFTER):
            self._channel.close()
            self._end("hung")
            return
        self.unanswered += 1
        if self.is_ready:
            self._channel.send(Frame(Kind.ASK_ALIVE))
        self._beat = asyncio.get_running_loop().call_later(BEAT_S, self._ask)

    def _take(self, frame: Frame) -> None:
        fields = frame.fields
        if frame.kind is Kind.READY:
            self.is_ready, self.unanswered = True, 0
            self._events.on_ready(self)
        elif frame.kind is Kind.ALIVE:
            self.unanswered = 0
            before, self._log_lines_lost = self._log_lines_lost, fields["log_lines_lost"]
            self._events.on_log_lost(self._log_lines_lost - before)
        elif frame.kind is Kind.EVENTS:
            self.connections -= fields["ended"]
            self._events.on_change()
            for reason, count in fields["closed"].items():
                self._events.on_closed(reason, count)
            if fields["unparsed"]:
                self._events.on_unparsed(fields["unparsed"])
        else:
            self._requests.take(frame)

    def _lost(self, error: FrameError | None) -> None:
        self._end("ended")

    def _end(self, how: str) -> None:
        self.is_ready = False
        self._beat.cancel()
        self._requests.close()
        self.process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(1.0)  # it ended or was killed
        self._events.on_lost(self, how)
