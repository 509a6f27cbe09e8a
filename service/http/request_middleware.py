"""The outermost middleware: request id, common headers, counting, the log line.

It also catches every unforeseen error and answers with a fixed sentence and the request id, so no
stack trace, path or image value ever leaves the process.
"""

from __future__ import annotations

import logging
from typing import Protocol

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import HeadersTooLarge
from service.http.callers import caller_at
from service.http.problems import internal_problem, problem_response
from service.http.traces import TraceSink
from service.http.upload import CallerLeft
from service.logging import describe_error, log_request
from service.metrics import SEGMENT_PATHS
from service.request_record import RequestRecord, new_record, server_timing

logger = logging.getLogger("service.edge")

STATUS_CALLER_LEFT = 499
"""Status in logs and metrics for a caller who left before the answer (nginx's number)."""

MAX_HEADERS = 100


class RequestCounter(Protocol):
    """Accounts for requests; `service.metrics.Metrics` implements it."""

    def count_request(self, record: RequestRecord, status: int, *, has_left: bool) -> None:
        """Account for a finished request."""


class RequestMiddleware:
    """ASGI middleware around the whole app."""

    def __init__(
        self, app: ASGIApp, counter: RequestCounter, traces: TraceSink | None = None
    ) -> None:
        """Wrap `app`; `counter` counts every request, `traces` get those for masks."""
        self._app = app
        self._counter = counter
        self._traces = traces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI scope."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        record = new_record(headers)
        record.caller = caller_at(scope.get("client"))
        to_origin_form(scope)
        scope["lungseg.record"] = record
        status = STATUS_CALLER_LEFT
        started = has_left = False

        async def send_with_headers(message: Message) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                started, status = True, message["status"]
                answer_headers = MutableHeaders(scope=message)
                _add_headers(answer_headers, record)
                if _must_close(headers, status):
                    answer_headers["Connection"] = "close"
            await send(message)

        try:
            if len(scope["headers"]) > MAX_HEADERS:
                await _too_many_headers(scope, record)(scope, receive, send_with_headers)
                return
            await self._app(scope, receive, send_with_headers)
        except CallerLeft:
            has_left = True
        except Exception as error:  # the border of the process
            fields = {"request_id": record.request_id, **describe_error(error)}
            logger.error("unforeseen error", extra={"fields": fields})
            if not started:
                record.problem_code = "internal_error"
                answer = internal_problem(record.request_id)
                await answer(scope, receive, send_with_headers)
        finally:
            record.route = getattr(scope.get("route"), "path", record.route)
            self._counter.count_request(record, status, has_left=has_left)
            if self._traces is not None and record.route in SEGMENT_PATHS:
                self._traces.send(record, status)
            log_request(record, status)


def _too_many_headers(scope: Scope, record: RequestRecord) -> Response:
    record.problem_code = HeadersTooLarge.code
    count = len(scope["headers"])
    sentence = f"A request may have {MAX_HEADERS} headers; this one has {count}."
    return problem_response(HeadersTooLarge(sentence), record.request_id)


def to_origin_form(scope: Scope) -> None:
    """Remove scheme and host from a target in absolute form (RFC 9112, section 3.2.2)."""
    for scheme in ("http://", "https://"):
        if scope["path"].lower().startswith(scheme):
            _, slash, path = scope["path"][len(scheme) :].partition("/")
            scope["path"] = slash + path or "/"


def _must_close(headers: Headers, status: int) -> bool:
    """Whether later bytes on this connection could be misread.

    A refused caller that waits for `100 Continue` may send its body or not (RFC 9110, section
    10.1.1). A length together with an encoding is used to smuggle requests (RFC 9112, 6.1).
    """
    waits = headers.get("expect", "").lower() == "100-continue"
    return (waits and status >= 400) or (
        "transfer-encoding" in headers and "content-length" in headers
    )


def _add_headers(headers: MutableHeaders, record: RequestRecord) -> None:
    headers["X-Request-ID"] = record.request_id
    headers["Server-Timing"] = server_timing(record)
    headers.setdefault("Cache-Control", "no-store")
    headers["X-Content-Type-Options"] = "nosniff"
    headers["X-Frame-Options"] = "DENY"
    headers["Referrer-Policy"] = "no-referrer"
    headers["Cross-Origin-Resource-Policy"] = "same-origin"
