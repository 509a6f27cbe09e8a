"""The serving process's answers to one front: admission, masks, counting, and all other routes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp

from service.errors import InternalError, ServiceError
from service.fronts.forwarding import answer_forwarded
from service.fronts.messages import (
    GIVEN_UP,
    REQUEST,
    begun_record,
    learned_fields,
    refusal_fields,
)
from service.http.callers import caller_of
from service.http.mask_source import ServedMasks
from service.http.problems import INTERNAL_SENTENCE
from service.imaging.task_data import ANSWER_FACTS, as_json
from service.logging import describe_error
from service.pipeline.held_answer import HeldAnswer
from service.request_record import RequestRecord, ServedName
from service.workers.framing import Frame, FrameError, Kind
from service.workers.shared_memory import Blob, BlobError

logger = logging.getLogger("service.fronts")

Send = Callable[[Frame], object]


@dataclass
class _Begun:
    """One request that a front has begun.

    Attributes:
        running: context that counts it as running.
        work: task that makes its answer.
        uncount_answer: function that uncounts the bytes of its answer.
    """

    running: ExitStack
    work: asyncio.Task[None] | None = None
    uncount_answer: Callable[[], None] = field(default=lambda: None)

    def end(self) -> None:
        """Release everything; may be called more than once."""
        self.running.close()
        if self.work is not None:
            self.work.cancel()
        self.uncount_answer()


class FrontRequests:
    """The requests of one front."""

    def __init__(self, masks: ServedMasks, app: ASGIApp, send: Send) -> None:
        """Start without requests.

        Args:
            masks: answers those for masks.
            app: answers all others.
            send: sends to the front.
        """
        self._masks = masks
        self._app = app
        self._send = send
        self._begun: dict[int, _Begun] = {}
        self._forwarded: set[asyncio.Task[None]] = set()

    def take(self, frame: Frame) -> None:
        """Handle a message of the front.

        Raises:
            FrameError: not a message of our fronts.
        """
        kind, fields = frame.kind, frame.fields
        if kind in (Kind.SEGMENT, Kind.PREVIEW):
            self._start_work(frame)
            return
        frame.close()
        if kind is Kind.ADMIT:
            self._admit(fields)
        elif kind is Kind.END:
            self._end(fields["number"])
        elif kind is Kind.COUNT:
            self._count(fields)
        elif kind is Kind.FORWARD:
            task = asyncio.ensure_future(self._forward(frame))
            self._forwarded.add(task)
            task.add_done_callback(self._forwarded.discard)
        else:
            raise FrameError(f"{kind.name} came unasked")

    def close(self) -> None:
        """End all requests: the front is gone, and nobody waits for their answers."""
        for number in list(self._begun):
            self._begun.pop(number).end()
        for task in list(self._forwarded):
            task.cancel()

    def _admit(self, fields: Mapping[str, Any]) -> None:
        number, key_name = fields["number"], None
        running = ExitStack()
        running.enter_context(self._masks.service.count_running())
        self._begun[number] = _Begun(running)
        try:
            key_name = self._masks.key_name(fields["headers"], fields["address"])
            # Refusals by the front itself keep their order: they precede a full queue.
            self._masks.require_readiness(for_masks=fields["for_masks"])
            if not fields["is_refused"]:
                caller = caller_of(key_name, fields["address"])
                self._masks.refuse(None, caller, for_masks=fields["for_masks"])
        except ServiceError as error:
            self._refuse(number, error, {"key_name": key_name})
            running.close()
            return
        self._send(Frame(Kind.ADMITTED, {"number": number, "key_name": key_name}))

    def _start_work(self, frame: Frame) -> None:
        begun = self._begun.get(frame.fields["number"])
        if begun is None or begun.work is not None or len(frame.descriptors) != 1:
            frame.close()
            raise FrameError("an X-ray came unasked")
        try:
            image = Blob.received(frame.descriptors[0], self._masks.settings.max_upload_bytes)
        except BlobError as error:
            raise FrameError(str(error)) from None
        begun.work = asyncio.ensure_future(self._work(begun, frame, image))

    async def _work(self, begun: _Begun, frame: Frame, image: Blob) -> None:
        """Answer a request, even if it fails."""
        fields = frame.fields
        number, record = fields["number"], begun_record(fields["record"])
        try:
            with image:
                if frame.kind is Kind.SEGMENT:
                    request = REQUEST.validate_python(fields["request"])
                    answer = await self._masks.segment(
                        image, request, fields["upload_bytes"], record
                    )
                else:
                    answer = await self._masks.preview(image, fields["upload_bytes"], record)
            with answer:
                self._send_answer(begun, number, answer, record)
        except ServiceError as error:
            self._refuse(number, error, {"learned": learned_fields(record)})
        except asyncio.CancelledError:
            told = {"number": number, "code": GIVEN_UP, "learned": learned_fields(record)}
            self._send(Frame(Kind.REFUSED, told))
            raise
        except Exception as error:  # the border: the caller gets an answer
            described = {"request_id": record.request_id, **describe_error(error)}
            logger.error("unforeseen error", extra={"fields": described})
            refusal = InternalError(INTERNAL_SENTENCE)
            self._refuse(number, refusal, {"learned": learned_fields(record)})
        finally:
            begun.running.close()

    def _send_answer(
        self, begun: _Begun, number: int, answer: HeldAnswer, record: RequestRecord
    ) -> None:
        facts = as_json(ANSWER_FACTS, answer.facts)
        told = {"number": number, "facts": facts, "learned": learned_fields(record)}
        begun.uncount_answer = self._masks.keep_answer(answer.body.size_bytes)
        self._send(Frame(Kind.ANSWERED, told, descriptors=(answer.body.fileno(),)))

    def _refuse(self, number: int, error: ServiceError, beside: Mapping[str, Any]) -> None:
        self._send(Frame(Kind.REFUSED, {"number": number, **refusal_fields(error), **beside}))

    def _end(self, number: int) -> None:
        """End a request that its front gave up, and free what it held."""
        begun = self._begun.get(number)
        if begun is not None:
            begun.end()

    def _count(self, fields: Mapping[str, Any]) -> None:
        """Account for a request that its front answered or gave up."""
        begun = self._begun.pop(fields["number"], None)
        if begun is not None:
            begun.end()
        metrics = self._masks.service.metrics
        metrics.count_answer(
            fields["route"],
            fields["status"],
            fields["seconds"],
            fields["problem_code"],
            None if fields["model"] is None else ServedName(*fields["model"]),
            has_left=fields["has_left"],
        )

    async def _forward(self, frame: Frame) -> None:
        told, body = await answer_forwarded(self._app, frame)
        with body:
            self._send(Frame(Kind.FORWARDED, told, descriptors=(body.fileno(),)))
