"""The common parts of requests with an X-ray: upload, end and refusal."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from service.errors import ServiceError
from service.http.early_response import EarlyResponse
from service.http.mask_source import MaskSource
from service.http.problems import noted_problem
from service.http.upload import CallerLeft, RequestBody, Upload, UploadLimits, read_upload
from service.pipeline.held_answer import HeldAnswer
from service.request_record import record_of

Endpoint = Callable[[Request, RequestBody], Awaitable[Response]]


async def answer_xray(request: Request, masks: MaskSource, endpoint: Endpoint) -> Response:
    """Answer a request with an X-ray, or refuse it at once.

    Args:
        request: the request, its body unread.
        masks: source of the answers, which counts the request.
        endpoint: function that answers it, or refuses it by raising.

    Raises:
        CallerLeft: the caller has left.
    """
    body = RequestBody(request.receive, masks.settings.upload_idle_timeout_s)
    with masks.counted(record_of(request.scope)):
        try:
            return await endpoint(request, body)
        except ServiceError as error:
            problem = noted_problem(request, error)
            # A client that waits for "100 Continue" has sent no body yet.
            if request.headers.get("expect", "").lower() == "100-continue":
                return problem
            return EarlyResponse(problem, body)


async def receive_upload(
    request: Request, body: RequestBody, masks: MaskSource, max_fields: int
) -> Upload:
    """Read the form of a request within the limits of the service, and note its size.

    The caller closes the result.

    Raises:
        ServiceError: the upload is refused.
        CallerLeft: the caller is gone.
    """
    limits = UploadLimits(masks.settings.max_upload_bytes, max_fields)
    share = masks.uploads.begin(body.give_way)
    pause_after = partial(masks.uploads.pace.pause_after, record_of(request.scope).caller)
    try:
        query = request.query_params.multi_items()
        upload = await read_upload(body, request.headers, query, limits, share.add, pause_after)
    finally:
        share.close()
    record_of(request.scope).upload_bytes = upload.size_bytes
    return upload


def deadline(timeout_s: float) -> asyncio.Timeout:
    """Return a context that raises TimeoutError after `timeout_s` seconds."""
    return asyncio.timeout(timeout_s)


async def unless_caller_leaves(
    body: RequestBody, work: Coroutine[Any, Any, HeldAnswer]
) -> HeldAnswer:
    """Wait for the work; cancel it and raise CallerLeft when the connection closes first."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(body.wait_until_caller_leaves())
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise CallerLeft
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)
