"""uvicorn with a draining stop: unready at once, running requests end, exit code 0."""

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
"""Seconds between closing the port and closing connections, to answer callers who just
connected."""
FIRST_REQUEST_S = 3.0
"""Seconds after closing the port for the first request of a connected caller."""
_ACCEPT_TURNS = 1000
"""Most turns of the event loop before the port closes; each accepts all waiting connections."""


class DrainingServer(uvicorn.Server):
    """A uvicorn server whose first SIGTERM, SIGINT or SIGHUP drains; a second one stops at once.

    While requests run, the port stays open and answers 503 `draining`, so that a load balancer
    notices. uvicorn itself would close the port first and end the process by the signal.
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
            on_stop: called once, when the process is told to stop.
            running: returns the number of running requests.
            must_end: returns whether the process must end by itself, because there is nothing to
                serve.
            drain_timeout_s: seconds after which the process stops even with running requests.
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
        """Also capture SIGHUP, which a closing terminal sends."""
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread gets signals
            return
        before = signal.signal(signal.SIGHUP, self.handle_exit)
        try:
            with super().capture_signals():
                yield
        finally:
            signal.signal(signal.SIGHUP, before)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handle the signals that stop the process."""
        if self._stop_by is None:
            self._stop_by = time.monotonic() + self._drain_timeout_s
            self._on_stop()
        else:
            self.should_exit = self.force_exit = True

    async def on_tick(self, counter: int) -> bool:
        """Leave the main loop when the last request is answered or the time is over."""
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
        """Let the event loop accept completed connections; closing the port resets the rest.

        If a server closes before a connection has its transport, asyncio fails, and the connection
        is neither answered nor closed. So accepting ends two turns before.
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
        """Return whether an accepted caller may still send a first request."""
        assert self._stop_by is not None and self._linger_until is not None
        until = min(self._stop_by, self._linger_until - LINGER_S + FIRST_REQUEST_S)
        return now < until and any(
            isinstance(connection, BoundedConnection) and connection.awaits_request
            for connection in self.server_state.connections
        )
