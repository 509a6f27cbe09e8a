"""The server of a serving process with fronts: it accepts no connections itself."""

from __future__ import annotations

import socket
from collections.abc import Callable

import uvicorn

from service.fronts.front_processes import FrontProcesses
from service.http.server import DrainingServer


class FrontedServer(DrainingServer):
    """A `DrainingServer` without connections of its own."""

    def __init__(
        self,
        config: uvicorn.Config,
        fronts: FrontProcesses,
        *,
        on_stop: Callable[[], None],
        running: Callable[[], int],
        must_end: Callable[[], bool],
        drain_timeout_s: float,
    ) -> None:
        """Make the server, with the arguments of `DrainingServer` and the fronts."""
        super().__init__(
            config,
            on_stop=on_stop,
            running=running,
            must_end=must_end,
            drain_timeout_s=drain_timeout_s,
        )
        self._fronts = fronts

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the app, then the fronts."""
        await super().startup(sockets)
        self.servers.append(self._fronts)  # type: ignore[arg-type]
        self._fronts.start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the fronts, which the app still answers, then the app."""
        if not self.force_exit:
            await self._fronts.stop()
        await super().shutdown(sockets)
