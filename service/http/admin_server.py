"""The server of the admin port, in the event loop of the callers' server."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Generator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

HEADER_TIMEOUT_S = 10.0


class AdminServer(uvicorn.Server):
    """A uvicorn server without signal handling; the callers' server ends it."""

    def __init__(self, app: FastAPI, listener: socket.socket) -> None:
        """Make the server; `listener` is bound to loopback."""
        super().__init__(
            uvicorn.Config(
                app,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                limit_concurrency=32,
                timeout_graceful_shutdown=1,
            )
        )
        self._listener = listener
        self._serving: asyncio.Task[None] | None = None

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Capture no signals."""
        yield

    def begin(self) -> None:
        """Begin to serve in the running event loop."""
        self._serving = asyncio.create_task(self.serve(sockets=[self._listener]))

    async def end(self) -> None:
        """Stop the server."""
        self.should_exit = True
        if self._serving is not None:
            await self._serving
