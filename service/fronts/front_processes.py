"""All fronts: start them, pass each new connection to the least busy, replace lost ones.

The serving process owns the port, so that a lost front loses no waiting connection and all fronts
have equally many. It also has everything else that must exist once: admission, API keys, metrics,
the audit log, readiness. A front has only connections and unfinished uploads. When it ends, its
connections end and their requests are given up.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Sequence
from typing import Any

from starlette.types import ASGIApp

from service.fronts.front_handle import FrontEvents, FrontHandle
from service.http.mask_source import ServedMasks

logger = logging.getLogger("service.fronts")

ACCEPTED_AT_ONCE = 64
FULL_PAUSE_S = 0.1
"""Pause after a connection that could not be accepted for lack of descriptors."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0
"""Pause before a lost front is replaced; it doubles until a new one is ready."""
STOP_BEYOND_S = 5.0
"""Further seconds for a front to end, after the time that callers have for their answers."""


class FrontProcesses:
    """The fronts of one service, for the event loop only; uvicorn can use it as a server."""

    def __init__(
        self,
        count: int,
        listener: socket.socket,
        masks: ServedMasks,
        app: ASGIApp,
        most_connections: int,
    ) -> None:
        """Build the fronts; nothing runs before `start`.

        Args:
            count: number of fronts.
            listener: socket that listens on the port.
            masks: answers requests for masks.
            app: answers all other requests.
            most_connections: most connections at a time, of all fronts together.
        """
        self._count = count
        self._listener = listener
        self._masks = masks
        self._app = app
        self._fronts: list[FrontHandle] = []
        self._pause_s = FIRST_PAUSE_S
        self._is_listening = False
        self._is_closed = False
        self._config: dict[str, Any] = {
            "settings": masks.settings.model_dump(mode="json", exclude={"uid_key"}),
            "connections": -(-most_connections // count),
            "upload_budget_bytes": self._upload_budget_bytes(),
        }
        metrics = masks.service.metrics

        def count_unparsed(count: int) -> None:
            for _ in range(count):
                metrics.count_unparsed()

        def count_closed(reason: str, count: int) -> None:
            for _ in range(count):
                metrics.connection_closed(reason)

        self._events = FrontEvents(
            on_ready=self._note_ready,
            on_change=lambda: metrics.connections.set(self.connections),
            on_closed=count_closed,
            on_unparsed=count_unparsed,
            on_log_lost=metrics.log_lines_lost.inc,
            on_lost=self._replace,
        )

    @property
    def connections(self) -> int:
        """Connections of all fronts."""
        return sum(front.connections for front in self._fronts)

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """The listening socket, as in asyncio's servers; none after `close`."""
        return () if self._is_closed else (self._listener,)

    @property
    def process_ids(self) -> list[int]:
        """Process ids of the fronts."""
        return [front.process.pid for front in self._fronts]

    def start(self) -> None:
        """Start the fronts; connections wait at the port until one is ready."""
        self._listener.setblocking(False)
        for _ in range(self._count):
            self._start_one()

    def close(self) -> None:
        """Accept no more connections; open ones are still served."""
        self._is_closed = True
        self._stop_listening()
        self._listener.close()

    async def wait_closed(self) -> None:
        """Return at once, because `close` already closed the port."""

    async def stop(self) -> None:
        """Let the fronts answer their callers, and end them."""
        self.close()
        timeout_s = self._masks.settings.drain_timeout_s + STOP_BEYOND_S
        await asyncio.gather(*(front.stop(timeout_s) for front in self._fronts))
        self._fronts.clear()

    def _upload_budget_bytes(self) -> int:
        """Return each front's share of the memory for unfinished uploads: at least one upload."""
        share = self._masks.uploads.limit_bytes // self._count
        return max(share, self._masks.settings.max_upload_bytes)

    def _start_one(self) -> None:
        if self._is_closed:
            return
        try:
            front = FrontHandle(self._config, self._masks, self._app, self._events)
        except OSError:
            logger.exception("a front cannot be started")
            self._start_later()
            return
        self._fronts.append(front)

    def _start_later(self) -> None:
        asyncio.get_running_loop().call_later(self._pause_s, self._start_one)
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)

    def _note_ready(self, front: FrontHandle) -> None:
        self._pause_s = FIRST_PAUSE_S
        self._show_ready()
        if not (self._is_listening or self._is_closed):
            self._is_listening = True
            asyncio.get_running_loop().add_reader(self._listener.fileno(), self._accept)

    def _replace(self, front: FrontHandle, how: str) -> None:
        if front not in self._fronts:
            return
        self._fronts.remove(front)
        self._masks.service.metrics.connections.set(self.connections)
        self._show_ready()
        if not self._is_closed:
            self._masks.service.metrics.fronts_lost.inc()
            fields = {"how": how, "connections": front.connections}
            logger.error("front lost", extra={"fields": fields})
            self._start_later()
        if not any(each.is_ready for each in self._fronts):
            self._stop_listening()

    def _show_ready(self) -> None:
        ready = sum(front.is_ready for front in self._fronts)
        self._masks.service.metrics.fronts.set(ready)

    def _stop_listening(self) -> None:
        if self._is_listening:
            self._is_listening = False
            asyncio.get_running_loop().remove_reader(self._listener.fileno())

    def _accept(self) -> None:
        """Pass on connections that wait at the port; a front lost meanwhile loses its own."""
        for _ in range(ACCEPTED_AT_ONCE):
            ready = [front for front in self._fronts if front.is_ready]
            if not ready:
                return
            try:
                connection, _ = self._listener.accept()
                freest(ready).hand(connection)
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                break
            except OSError:
                logger.error("a connection cannot be taken")
                self._stop_listening()
                asyncio.get_running_loop().call_later(FULL_PAUSE_S, self._listen_again)
                break
        self._events.on_change()

    def _listen_again(self) -> None:
        ready = [front for front in self._fronts if front.is_ready]
        if ready:
            self._note_ready(ready[0])


def freest(fronts: Sequence[FrontHandle]) -> FrontHandle:
    """Return the front with the fewest connections, of those that answer pings if any does."""
    return min(fronts, key=lambda front: (front.is_silent, front.connections))
