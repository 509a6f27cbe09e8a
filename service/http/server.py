"""uvicorn, with a stop that drains: unready at once, running requests end, exit code 0."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType

import uvicorn

from service.http.connection import BoundedConnection
from service.http.listen_queue import waiting_connections

LINGER_S = 0.5
"""Between closing the port and closing connections: who had just connected is still answered."""
FIRST_REQUEST_S = 3.0
"""After the port is closed: time for the first request of a caller who had connected before."""
_ACCEPT_TURNS = 1000
"""Turns of the event loop before the port is closed whoever waits; each accepts all of a moment."""


class DrainingServer(uvicorn.Server):
    """A uvicorn server whose first SIGTERM, SIGINT or SIGHUP drains; a second one stops at once.

    While requests run, the port stays open and answers 503 `draining`, so that a load balancer
    sees it. By itself uvicorn would close the port first and end the process by the signal.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        *,
        on_stop: Callable[[], None],
        running: Callable[[], int],
        must_end: Callable[[], bool],
        drain_timeout_s: float,
    ) -> None:
        """Make the server.

        Args:
            config: uvicorn's own settings.
            on_stop: called once, when the process is asked to stop.
            running: reads how many requests are being worked on.
            must_end: whether the process has to end by itself (there is nothing to serve).
            drain_timeout_s: seconds after which the process stops with requests still running.
        """
        super().__init__(config)
        self._on_stop = on_stop
        self._running = running
        self._must_end = must_end
        self._drain_timeout_s = drain_timeout_s
        self._stop_by: float | None = None
        self._linger_until: float | None = None

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Take SIGHUP as well, which a terminal that is closed sends."""
        if threading.current_thread() is not threading.main_thread():
            yield  # signals reach the main thread alone
            return
        before = signal.signal(signal.SIGHUP, self.handle_exit)
        try:
            with super().capture_signals():
                yield
        finally:
            signal.signal(signal.SIGHUP, before)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take the signals that ask the process to stop."""
        if self._stop_by is None:
            self._stop_by = time.monotonic() + self._drain_timeout_s
            self._on_stop()
        else:
            self.should_exit = self.force_exit = True

    async def on_tick(self, counter: int) -> bool:
        """Leave the main loop once the last request is answered or the time is over."""
        now = time.monotonic()
        if self._stop_by is not None and (self._running() == 0 or now >= self._stop_by):
            if self._linger_until is None:
                await self._accept_those_who_wait()
                for listener in self.servers:
                    listener.close()
                self._linger_until = time.monotonic() + LINGER_S
            if now >= self._linger_until and not self._expects_requests(now):
                self.should_exit = True
        if self._must_end():
            self.should_exit = True
        return await super().on_tick(counter)

    async def _accept_those_who_wait(self) -> None:
        """Let the event loop accept whom the kernel has taken; closing the port resets the rest.

        A connection whose transport is not made yet when its server is closed is never answered and
        never closed: asyncio fails in the midst of it. So accepting ends two turns before.
        """
        ports = [one for listener in self.servers for one in listener.sockets]
        for _ in range(_ACCEPT_TURNS):
            if not any(waiting_connections(port) for port in ports):
                break
            await asyncio.sleep(0)
        for port in ports:
            asyncio.get_running_loop().remove_reader(port.fileno())
        for _ in range(2):
            await asyncio.sleep(0)

    def _expects_requests(self, now: float) -> bool:
        """Return whether a caller who was accepted may still send a first request."""
        assert self._stop_by is not None and self._linger_until is not None
        until = min(self._stop_by, self._linger_until - LINGER_S + FIRST_REQUEST_S)
        return now < until and any(
            isinstance(connection, BoundedConnection) and connection.awaits_request
            for connection in self.server_state.connections
        )
