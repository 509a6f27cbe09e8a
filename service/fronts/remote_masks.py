"""A front's requests for masks to the serving process."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress

from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from service.errors import ServiceError
from service.fronts.forwarding import forwarded, send_forwarded
from service.fronts.messages import (
    GIVEN_UP,
    KEY_HEADERS,
    MOST_KEY_LENGTH,
    REQUEST,
    begun_fields,
    note_learned,
    refusal_of,
)
from service.http.keys import note_key
from service.imaging.segment_request import SegmentRequest
from service.imaging.task_data import ANSWER_FACTS, as_json
from service.pipeline.held_answer import HeldAnswer
from service.pipeline.upload_budget import UploadBudget
from service.request_record import RequestRecord, record_of
from service.settings import Settings
from service.workers.framing import Frame, FrameError, Kind
from service.workers.shared_memory import Blob

GIVING_UP_S = 1.0
"""How long a given-up request waits until the serving process has released everything."""

_ANSWERS = (Kind.ADMITTED, Kind.ANSWERED, Kind.REFUSED, Kind.FORWARDED)


class RemoteMasks:
    """The serving process as seen by a front; for the event loop only.

    Attributes:
        uploads: memory for this front's unfinished uploads.
    """

    def __init__(
        self, settings: Settings, uploads: UploadBudget, send: Callable[[Frame], object]
    ) -> None:
        """Start without requests; `send` sends to the serving process."""
        self.settings = settings
        self.uploads = uploads
        self._send = send
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Frame]] = {}

    def take(self, frame: Frame) -> None:
        """Handle an answer of the serving process.

        Raises:
            FrameError: not a message of our serving process.
        """
        if frame.kind not in _ANSWERS:
            frame.close()
            raise FrameError(f"{frame.kind.name} came unasked")
        waiting = self._waiting.pop(frame.fields["number"], None)
        if waiting is None or waiting.done():
            frame.close()  # nobody waits for it now
        else:
            waiting.set_result(frame)

    @contextmanager
    def counted(self, record: RequestRecord) -> Generator[None, None, None]:
        """Give a request its number; the serving process counts it from its admission on."""
        record.number = next(self._numbers)
        is_answered = False
        try:
            yield
            is_answered = True
        finally:
            if not is_answered or record.problem_code is not None:
                self._send(Frame(Kind.END, {"number": record.number}))

    async def admit(self, request: Request, own: ServiceError | None, *, for_masks: bool) -> None:
        """Admit a request before its upload is read, or refuse it."""
        record = record_of(request.scope)
        fields = {
            "headers": {
                name: request.headers.get(name, "")[:MOST_KEY_LENGTH] for name in KEY_HEADERS
            },
            "address": request.client.host if request.client is not None else "",
            "for_masks": for_masks,
            "is_refused": own is not None,
        }
        answer = await self._request(Kind.ADMIT, record, fields)
        key_name = answer.fields["key_name"]
        if key_name is not None:
            note_key(record, key_name)
        if answer.kind is Kind.REFUSED:
            raise refusal_of(answer.fields)
        if own is not None:
            raise own

    async def segment(
        self, image: Blob, request: SegmentRequest, upload_bytes: int, record: RequestRecord
    ) -> HeldAnswer:
        """Answer one request."""
        fields = {"request": as_json(REQUEST, request), "upload_bytes": upload_bytes}
        return await self._answered(Kind.SEGMENT, record, fields, image)

    async def preview(self, image: Blob, upload_bytes: int, record: RequestRecord) -> HeldAnswer:
        """Return the grey values of one X-ray."""
        return await self._answered(Kind.PREVIEW, record, {"upload_bytes": upload_bytes}, image)

    def keep_answer(self, size_bytes: int) -> Callable[[], None]:
        """Do nothing: the serving process counts an answer until the front reports its end."""
        return lambda: None

    async def forward(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Have the serving process answer a request of any other route."""
        number = next(self._numbers)
        waiting = self._wait_for(number)
        self._send(forwarded(number, scope))
        answer = await waiting
        (descriptor,) = answer.descriptors
        body = Blob.received(descriptor, 2**40)
        await send_forwarded(send, answer.fields, body)

    async def _answered(
        self, kind: Kind, record: RequestRecord, fields: dict[str, object], image: Blob
    ) -> HeldAnswer:
        fields["record"] = begun_fields(record)
        answer = await self._request(kind, record, fields, image)
        note_learned(record, answer.fields["learned"])
        if answer.kind is Kind.REFUSED:
            raise refusal_of(answer.fields)
        (descriptor,) = answer.descriptors
        body = Blob.received(descriptor, 2**40)
        return HeldAnswer(ANSWER_FACTS.validate_python(answer.fields["facts"]), body)

    async def _request(
        self, kind: Kind, record: RequestRecord, fields: dict[str, object], *blobs: Blob
    ) -> Frame:
        """Send a message about a request and wait for the answer."""
        assert record.number is not None
        waiting = self._wait_for(record.number)
        descriptors = tuple(blob.fileno() for blob in blobs)
        self._send(Frame(kind, {"number": record.number, **fields}, descriptors=descriptors))
        try:
            return await asyncio.shield(waiting)
        except asyncio.CancelledError:
            await self._give_up(record, waiting)
            raise

    async def _give_up(self, record: RequestRecord, waiting: asyncio.Future[Frame]) -> None:
        """End a request, wait until its memory is free, and get its final record."""
        self._send(Frame(Kind.END, {"number": record.number}))
        with suppress(TimeoutError):
            last = await asyncio.wait_for(waiting, GIVING_UP_S)
            last.close()
            if last.fields.get("code") == GIVEN_UP or "learned" in last.fields:
                note_learned(record, last.fields["learned"])

    def _wait_for(self, number: int) -> asyncio.Future[Frame]:
        waiting: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        self._waiting[number] = waiting
        return waiting
