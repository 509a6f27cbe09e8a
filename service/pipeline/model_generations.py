"""The served model, its predecessor, and the change between them under load.

A change does not disturb running requests: separate compute processes load the new model, and its
golden mask proves it. Later requests use it; earlier ones stay with the model that they were
prepared for. The previous model stays loaded, so a rollback takes no time, needs no file, and
returns exactly the model that served before.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from model_store.model_info import ModelInfo
from model_store.self_test_result import SelfTestResult
from service.compute.fleet import ComputeFleet
from service.compute.readiness import ReadinessSink
from service.settings import Settings

logger = logging.getLogger("service.model")

LOAD_TIMEOUT_S = 300.0
LOOK_INTERVAL_S = 0.05
CLOSE_TIMEOUT_S = 5.0


class ReloadError(Exception):
    """The model was not changed; the message is a sentence."""


class GenerationReadiness:
    """Readiness of one generation; the process's readiness follows only the served one.

    Attributes:
        is_ready: whether the model is proven.
        reason: why it is not; None while it loads.
        self_test: the latest passed self test.
    """

    def __init__(self, readiness: ReadinessSink) -> None:
        """Start without handlers and state."""
        self._readiness = readiness
        self._lock = threading.Lock()
        self._latest: Callable[[ReadinessSink], None] | None = None
        self._is_served = False
        self.is_ready = False
        self.reason: str | None = None
        self.self_test: SelfTestResult | None = None

    def serve(self) -> None:
        """Report the latest state and all later ones to the process's readiness."""
        with self._lock:
            self._is_served = True
            if self._latest is not None:
                self._latest(self._readiness)

    def leave(self) -> None:
        """Stop reporting to the process's readiness."""
        with self._lock:
            self._is_served = False

    def mark_ready(self, self_test: SelfTestResult) -> None:
        """Note that the model gave the golden mask."""
        self.self_test = self_test
        self._say(lambda readiness: readiness.mark_ready(self_test), is_ready=True)

    def mark_recovering(self, reason: str) -> None:
        """Note that the model is gone and another process starts."""
        self._say(lambda readiness: readiness.mark_recovering(reason), reason)

    def mark_broken(self, reason: str) -> None:
        """Note that the model will never give masks."""
        self._say(lambda readiness: readiness.mark_broken(reason), reason)

    def _say(
        self,
        tell: Callable[[ReadinessSink], None],
        reason: str | None = None,
        *,
        is_ready: bool = False,
    ) -> None:
        with self._lock:
            self.is_ready, self.reason, self._latest = is_ready, reason, tell
            if self._is_served:
                tell(self._readiness)


@dataclass(eq=False)
class Generation:
    """One model with the processes that run it.

    Attributes:
        settings: settings of the process, with the folder of this model.
        requests: running requests that use it.
        refusals: reasons why it could not be loaded.
    """

    settings: Settings
    host: ComputeFleet
    readiness: GenerationReadiness
    requests: int = 0
    refusals: list[Exception] = field(default_factory=list)

    @property
    def info(self) -> ModelInfo | None:
        """The proven model; None before."""
        model = self.host.model
        return None if model is None else model.info


HostFactory = Callable[[Settings, GenerationReadiness, Callable[[Exception], None]], ComputeFleet]


class ModelGenerations:
    """The served generation and its predecessor; for the event loop's thread only.

    Attributes:
        served: generation of new requests.
        before: generation that a rollback restores; None before the first change.
    """

    def __init__(
        self,
        settings: Settings,
        readiness: ReadinessSink,
        make_host: HostFactory,
        on_refused: Callable[[Exception], None],
        *,
        changing: asyncio.Lock,
        objection: Callable[[ModelInfo], str | None],
    ) -> None:
        """Make the first generation; nothing runs before `start`.

        Args:
            settings: settings with the folder of the first model.
            readiness: gets the state of the served model.
            make_host: makes the processes for the model of a generation.
            on_refused: called with the reason if the first model cannot be loaded at all.
            changing: lock held during a change; several models may share it.
            objection: returns why a proven model cannot be served; None if it can.
        """
        self._objection = objection
        self._readiness = readiness
        self._make_host = make_host
        self._changing = changing
        self._closing: set[asyncio.Task[None]] = set()
        self.before: Generation | None = None
        self.served = self._make(settings, on_refused)
        self.served.readiness.serve()

    def start(self) -> None:
        """Start loading the first model."""
        self.served.host.start()

    @contextmanager
    def use(self) -> Generator[Generation, None, None]:
        """Return the served generation to a request, which keeps it to its end."""
        generation = self.served
        generation.requests += 1
        try:
            yield generation
        finally:
            generation.requests -= 1

    async def reload(self, folder: Path | None) -> ModelInfo:
        """Load and prove a model beside the served one, and then serve it.

        Args:
            folder: its folder; None to read the served model's folder again.

        Returns:
            The newly served model.

        Raises:
            ReloadError: another change is running, or the model is refused or fails its self test.
                The served model stays.
        """
        with self._one_change():
            async with self._changing:
                settings = self.served.settings
                if folder is not None:
                    settings = settings.model_copy(update={"model": folder})
                refusals: list[Exception] = []
                made = self._make(settings, refusals.append)
                made.refusals = refusals
                made.host.start()
                try:
                    info = await self._proven(made)
                    self._require_no_objection(info)
                except BaseException:
                    self._close_soon(made)
                    raise
                if self.before is not None:
                    self._close_soon(self.before)
                self._serve(made)
                return info

    async def rollback(self) -> ModelInfo:
        """Serve the previous model again; a second rollback undoes the first.

        Raises:
            ReloadError: there is none, it is not proven now, or another change is running.
        """
        with self._one_change():
            async with self._changing:
                if self.before is None:
                    raise ReloadError("No other model has been served since the start.")
                info = self.before.info
                if info is None or not self.before.readiness.is_ready:
                    raise ReloadError("The model before is not ready; it is being started again.")
                self._require_no_objection(info)
                self._serve(self.before)
                return info

    async def close(self, timeout_s: float) -> None:
        """End all models."""
        for task in self._closing:
            task.cancel()
        for generation in (self.served, self.before):
            if generation is not None:
                await asyncio.to_thread(generation.host.close, timeout_s)

    def _require_no_objection(self, info: ModelInfo) -> None:
        objection = self._objection(info)
        if objection is not None:
            raise ReloadError(objection)

    @contextmanager
    def _one_change(self) -> Generator[None, None, None]:
        if self._changing.locked():
            raise ReloadError("Another change of the model is under way.")
        yield

    def _make(self, settings: Settings, on_refused: Callable[[Exception], None]) -> Generation:
        readiness = GenerationReadiness(self._readiness)
        return Generation(settings, self._make_host(settings, readiness, on_refused), readiness)

    def _serve(self, generation: Generation) -> None:
        """Direct new requests to this generation; the other one stays loaded."""
        before = self.served
        before.readiness.leave()
        generation.readiness.serve()
        self.served, self.before = generation, before
        logger.info("model reloaded", extra={"fields": _change(before.info, generation.info)})

    async def _proven(self, generation: Generation) -> ModelInfo:
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + LOAD_TIMEOUT_S
        while loop.time() < give_up_at:
            info = generation.info
            if generation.readiness.is_ready and info is not None:
                return info
            if generation.refusals:
                raise ReloadError(_sentence(generation.refusals[0]))
            reason = generation.readiness.reason
            await asyncio.sleep(LOOK_INTERVAL_S)
            if reason is not None and not generation.refusals:  # a refusal follows shortly
                raise ReloadError(reason)
        raise ReloadError(f"The model was not ready within {LOAD_TIMEOUT_S:g} seconds.")

    def _close_soon(self, generation: Generation) -> None:
        """End a generation when its last request has ended."""

        async def close() -> None:
            while generation.requests:
                await asyncio.sleep(LOOK_INTERVAL_S)
            await asyncio.to_thread(generation.host.close, CLOSE_TIMEOUT_S)

        task = asyncio.create_task(close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _change(before: ModelInfo | None, after: ModelInfo | None) -> dict[str, str]:
    fields: dict[str, str] = {}
    for suffix, info in (("", after), ("_before", before)):
        if info is not None:
            fields |= {
                f"model{suffix}": info.name,
                f"version{suffix}": info.version,
                f"sha256{suffix}": info.sha256,
            }
    return fields
