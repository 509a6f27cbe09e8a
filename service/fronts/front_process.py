"""A front: serves HTTP for some connections. `python -m service.fronts.front_process`.

`front_handle` starts it and passes it connections over a socket pair. It ends when that is closed,
and ignores signals, which the serving process handles.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import sys
import time
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from service.child_process import ParentGoneError, die_with_parent, leave_signals_to_parent
from service.fronts.front_app import RemoteCounter, create_front_app
from service.fronts.remote_masks import RemoteMasks
from service.heap import keep_one_heap
from service.http.connection import BoundedConnection, bounded_connection
from service.http.descriptors import most_connections
from service.http.server import FIRST_REQUEST_S
from service.http.traces import TraceExport
from service.line_handler import LineHandler
from service.line_writer import never_wait_for_readers
from service.logging import configure_logging
from service.pipeline.upload_budget import UploadBudget
from service.settings import Settings
from service.workers.channel import Channel
from service.workers.framing import Frame, FrameError, FrameReader, Kind, receive, refuse_rest
from service.workers.memory_release import release_memory_in_thread

logger = logging.getLogger("service.fronts")

EVENTS_PAUSE_S = 0.02
"""Seconds for which changes of connections are collected: some callers open one for each
request."""


def main(arguments: Sequence[str]) -> int:
    """Serve the connections that the serving process passes.

    Args:
        arguments: number of the socket's file descriptor.

    Returns:
        The exit code: 0 when it was told to end, or the other side has ended.
    """
    try:
        die_with_parent()
    except ParentGoneError:
        return 0
    leave_signals_to_parent()
    keep_one_heap()
    release_memory_in_thread()
    never_wait_for_readers()
    log = configure_logging()
    connection = socket.socket(fileno=int(arguments[0]))
    try:
        frame = receive(connection, FrameReader())
    except (EOFError, OSError):
        return 0
    refuse_rest(frame, [Kind.CONFIG])
    server = FrontServer(connection, frame.fields, log)
    gc.collect()
    gc.freeze()
    server.run(sockets=[])
    return 0


class FrontServer(uvicorn.Server):
    """A uvicorn server for connections that the serving process accepted."""

    def __init__(
        self, connection: socket.socket, fields: Mapping[str, Any], log: LineHandler
    ) -> None:
        """Keep the socket to the serving process, what that says, and what writes the log."""
        self._connection = connection
        self._log = log
        self._settings = Settings.model_validate(fields["settings"])
        self._budget_bytes: int = fields["upload_budget_bytes"]
        self._news = ConnectionNews()
        settings = self._settings
        http = bounded_connection(
            settings.header_timeout_s,
            settings.answer_idle_timeout_s,
            most_connections(fields["connections"], 0),
            on_unreadable=self._news.note_unparsed,
            on_change=self._news.note_connections,
            on_closed=self._news.note_closed,
        )
        super().__init__(
            uvicorn.Config(
                self._answer,
                http=http,
                interface="asgi3",
                ws="none",
                loop="asyncio",  # also where another extra installs uvloop
                ssl_certfile=settings.tls_cert,
                ssl_keyfile=settings.tls_key,
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                lifespan="off",
                timeout_graceful_shutdown=max(1, int(settings.drain_timeout_s)),
            )
        )
        self._app: ASGIApp | None = None
        self._traces: TraceExport | None = None
        self._stop_by: float | None = None
        self._arriving: set[asyncio.Task[object]] = set()

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Capture no signals: the serving process handles them."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept connections from the serving process."""
        await super().startup(sockets)
        self._channel = Channel(self._connection, self._take, self._lost)
        settings = self._settings
        masks = RemoteMasks(settings, UploadBudget(self._budget_bytes), self._channel.send)
        self._masks = masks
        if settings.otlp_endpoint:
            self._traces = TraceExport(settings.otlp_endpoint)
        self._app = create_front_app(masks, RemoteCounter(self._channel.send), self._traces)
        self._news.begin(self._channel)
        self._channel.send(Frame(Kind.READY))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer waiting callers, then send waiting spans."""
        await super().shutdown(sockets)
        if self._traces is not None:
            await asyncio.to_thread(self._traces.close)

    async def on_tick(self, counter: int) -> bool:
        """End when no connection still waits for its first request."""
        if self._stop_by is not None and not self._expects_requests():
            self.should_exit = True
        return await super().on_tick(counter)

    def _expects_requests(self) -> bool:
        assert self._stop_by is not None
        return time.monotonic() < self._stop_by and any(
            isinstance(connection, BoundedConnection) and connection.awaits_request
            for connection in self.server_state.connections
        )

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        assert self._app is not None
        await self._app(scope, receive, send)

    def _take(self, frame: Frame) -> None:
        if frame.kind is Kind.CONNECTION:
            (descriptor,) = frame.descriptors
            arriving = asyncio.ensure_future(self._serve_connection(descriptor))
            self._arriving.add(arriving)
            arriving.add_done_callback(self._arriving.discard)
        elif frame.kind is Kind.STOP:
            self._stop_by = time.monotonic() + FIRST_REQUEST_S
        elif frame.kind is Kind.ASK_ALIVE:
            self._channel.send(Frame(Kind.ALIVE, {"log_lines_lost": self._log.lost_lines}))
        else:
            self._masks.take(frame)

    async def _serve_connection(self, descriptor: int) -> None:
        caller = socket.socket(fileno=descriptor)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self._protocol, caller, ssl=self.config.ssl
            )
        except OSError:  # the caller is gone, or its TLS handshake failed
            caller.close()
            self._news.note_gone()

    def _protocol(self) -> asyncio.Protocol:
        made: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return made

    def _lost(self, error: FrameError | None) -> None:
        """End at once: the serving process is gone."""
        self.should_exit = self.force_exit = True


class ConnectionNews:
    """Changes of this front's connections for the serving process, collected for a moment."""

    def __init__(self) -> None:
        """Start without changes."""
        self._channel: Channel | None = None
        self._open = self._ended = self._unparsed = 0
        self._closed: Counter[str] = Counter()
        self._is_due = False

    def begin(self, channel: Channel) -> None:
        """Begin to report."""
        self._channel = channel

    def note_connections(self, count: int) -> None:
        """Note the number of connections."""
        if count < self._open:
            self._ended += self._open - count
            self._tell_soon()
        self._open = count

    def note_gone(self) -> None:
        """Note a connection that ended before it began."""
        self._ended += 1
        self._tell_soon()

    def note_closed(self, reason: str) -> None:
        """Note a connection that this front closed."""
        self._closed[reason] += 1
        self._tell_soon()

    def note_unparsed(self) -> None:
        """Note a request that is not HTTP."""
        self._unparsed += 1
        self._tell_soon()

    def _tell_soon(self) -> None:
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_later(EVENTS_PAUSE_S, self._tell)

    def _tell(self) -> None:
        assert self._channel is not None
        fields = {"ended": self._ended, "closed": self._closed, "unparsed": self._unparsed}
        self._channel.send(Frame(Kind.EVENTS, fields))
        self._ended, self._unparsed, self._is_due = 0, 0, False
        self._closed = Counter()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
