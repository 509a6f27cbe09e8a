"""The application as Ray Serve replicas: `serve run service.ray_app:app`, or a config file.

A replica is a process with its own image workers and compute process, like `python -m service`. Ray
Serve starts, places, watches and replaces replicas, and sends requests to the least busy one.
Settings are the `LUNGSEG_` variables, or arguments of the application with the same names. A config
file can change these while it runs: Ray then replaces one replica after another.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import prometheus_client
from ray import serve
from ray.serve.config import BackpressureConfig

from service.app import create_app
from service.compute.readiness import State
from service.heap import keep_one_heap
from service.logging import configure_logging
from service.ray_figures import FigureTable, together
from service.settings import Settings, settings_from
from service.settings_checks import require_safe_address

START_TIMEOUT_S = 300.0
RETRY_AFTER_S = 2.0
ONGOING_BEYOND_THE_QUEUE = 64
"""A replica accepts more requests than its queue holds, so that it refuses the rest itself, with
its 429."""
LONGEST_REQUEST_S = 120.0
_LOOK_S = 0.05

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class ReplicaUnusableError(RuntimeError):
    """The replica cannot give masks, so Ray replaces it."""


class Replica:
    """One process of the service; Ray Serve calls it by ASGI."""

    def __init__(self, settings: Settings, figures: Any) -> None:
        """Build the application; it starts with the ASGI lifespan.

        Args:
            settings: settings of the service.
            figures: handle of the deployment that stores all replicas' metrics.
        """
        keep_one_heap()
        configure_logging()
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self._figures = figures
        self._refused: list[Exception] = []
        self._app = create_app(settings, on_refused=self._refused.append)
        self._name = serve.get_replica_context().replica_id.unique_id
        self._was_ready = False

    def __serve_build_asgi_app__(self) -> Any:
        """Return the application; Ray runs it, and its lifespan, in this process."""

        async def answer(scope: Message, receive: Receive, send: Send) -> None:
            if scope["type"] == "http" and scope["path"] == "/metrics":
                await self._tell()
                told = await self._figures.told.remote()
                send = _with_body(send, together(told))
            await self._app(scope, receive, send)

        return answer

    async def check_health(self) -> None:
        """Wait for the golden mask at first; later fail if the replica is not ready.

        Raises:
            ReplicaUnusableError: it is not ready.
        """
        state = self._app.state.service.readiness
        async with asyncio.timeout(START_TIMEOUT_S):
            while not self._was_ready and state.state is not State.READY:
                if self._refused or state.state is State.BROKEN:
                    raise ReplicaUnusableError(str(self._refused or "self test failed"))
                await asyncio.sleep(_LOOK_S)
        self._was_ready = True
        await self._tell()
        if state.state in (State.BROKEN, State.RECOVERING):
            raise ReplicaUnusableError(state.state.value)

    async def _tell(self) -> None:
        service = self._app.state.service
        service.show_served()
        text = prometheus_client.generate_latest(service.metrics.registry).decode()
        await self._figures.tell.remote(self._name, text)


def app(arguments: dict[str, str]) -> Any:
    """Build the application for `serve run` and `serve deploy`.

    Args:
        arguments: settings of the service by their names, such as `model`; they override variables.

    Raises:
        SettingsError: a setting is not usable, or the service would be open by accident.
    """
    flags = [word for name, value in arguments.items() for word in (_flag(name), str(value))]
    settings = settings_from(flags, os.environ, program="serve run service.ray_app:app")
    require_safe_address(settings)
    inside = settings.queue_limit + 4 * settings.max_batch
    replica = serve.deployment(serve.ingress()(Replica)).options(
        name="lungseg",
        max_ongoing_requests=inside + ONGOING_BEYOND_THE_QUEUE,
        max_queued_requests=settings.queue_limit,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=RETRY_AFTER_S),
        health_check_period_s=5.0,
        health_check_timeout_s=START_TIMEOUT_S,
        graceful_shutdown_timeout_s=settings.drain_timeout_s + LONGEST_REQUEST_S,
    )
    figures = serve.deployment(FigureTable).options(
        name="figures", num_replicas=1, ray_actor_options={"num_cpus": 0}
    )
    return replica.bind(settings, figures.bind())


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _with_body(send: Send, body: bytes) -> Send:
    """Replace the body of an answer of 200; leave a refusal (a missing key) unchanged."""
    is_replaced = False

    async def replace(message: Message) -> None:
        nonlocal is_replaced
        if message["type"] == "http.response.start" and message["status"] == 200:
            is_replaced = True
            kept = [one for one in message["headers"] if one[0].lower() not in _OF_THE_BODY]
            kind = prometheus_client.CONTENT_TYPE_LATEST.encode()
            length = str(len(body)).encode()
            own = [(b"content-type", kind), (b"content-length", length)]
            message = {**message, "headers": [*kept, *own]}
        elif message["type"] == "http.response.body" and is_replaced:
            if message.get("more_body"):
                return
            message = {"type": "http.response.body", "body": body}
        await send(message)

    return replace


_OF_THE_BODY = (b"content-type", b"content-length")
