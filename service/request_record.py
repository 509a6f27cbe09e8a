"""The record of one request: identity, times and sizes.

The log line, the metrics and the answer's headers are all made from this record, so they agree,
except for times that an image worker adds after a deadline. It has no field for a file name, a
query, a box or a DICOM value.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from model_store.model_info import ModelInfo
from service.caller_turns import SERVICE

UNMATCHED_ROUTE = "unmatched"

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?")


class ServedName(NamedTuple):
    """Name and version of a served model."""

    name: str
    version: str


@dataclass
class RequestRecord:
    """One request, from its first byte to the end of its answer.

    Attributes:
        request_id: the caller's `X-Request-ID` when it is usable, else a new one.
        trace_id: trace id of a valid W3C `traceparent`, or of the exported trace, or None.
        traceparent: the whole of a valid `traceparent`, or None.
        started_at: `time.perf_counter()` at the start, in seconds.
        decode_began_at: `time.perf_counter()` when decoding was requested, or None.
        route: template of the route, never the raw path.
        problem_code: code of the problem that was answered, or None.
        stage_seconds: seconds of each stage that the request reached.
        upload_bytes: bytes of the body.
        image_format: "png", "jpeg", "tiff" or "dicom".
        width: width of the decoded image in pixels.
        height: height of the decoded image in pixels.
        grey_level: mean of the X-ray's windowed grey values, 0 to 255.
        box_count: number of requested boxes.
        batch_size: requests in the model call that answered this one.
        warning_codes: codes of the warnings in the answer.
        model: the model that answered, or None.
        requested_model: the model to answer with, when it is known.
        key_name: name of its API key, or None.
        caller: its caller, for turns; contains an address, so it is not logged.
        number: its number between front and serving process; None without fronts.
    """

    request_id: str
    trace_id: str | None
    traceparent: str | None = None
    started_at: float = field(default_factory=time.perf_counter)
    decode_began_at: float | None = None
    route: str = UNMATCHED_ROUTE
    problem_code: str | None = None
    stage_seconds: dict[str, float] = field(default_factory=dict)
    upload_bytes: int | None = None
    image_format: str | None = None
    width: int | None = None
    height: int | None = None
    grey_level: float | None = None
    box_count: int | None = None
    batch_size: int | None = None
    warning_codes: tuple[str, ...] = ()
    model: ModelInfo | None = None
    requested_model: ServedName | None = None
    key_name: str | None = None
    caller: str = SERVICE
    number: int | None = None

    def stages(self) -> list[tuple[str, float]]:
        """Return the seconds of each stage so far, in order.

        It is a copy, because after a deadline a stage may still end and add its time.
        """
        return list(self.stage_seconds.items())

    def elapsed_s(self) -> float:
        """Return seconds since the request began."""
        return time.perf_counter() - self.started_at


def new_record(headers: Mapping[str, str]) -> RequestRecord:
    """Begin the record of a request.

    Args:
        headers: request headers, lower-case names.

    Returns:
        A record with the caller's ids if they are well-formed. A request id with characters other
        than letters, digits and `._:-`, or longer than 128, is replaced, because it could forge
        headers and log lines.
    """
    given_id = headers.get("x-request-id", "")
    usable = _REQUEST_ID.fullmatch(given_id) is not None
    traceparent = headers.get("traceparent", "")
    trace_id = _trace_id(traceparent)
    return RequestRecord(
        request_id=given_id if usable else uuid.uuid4().hex,
        trace_id=trace_id,
        traceparent=None if trace_id is None else traceparent,
    )


def record_of(scope: Mapping[str, Any]) -> RequestRecord:
    """Return the record that the middleware attached to a request's ASGI scope."""
    record = scope["lungseg.record"]
    assert isinstance(record, RequestRecord)
    return record


def server_timing(record: RequestRecord) -> str:
    """Render the `Server-Timing` header: milliseconds per stage, then the total."""
    parts = [f"{stage};dur={s * 1000:.1f}" for stage, s in record.stages()]
    return ", ".join([*parts, f"total;dur={record.elapsed_s() * 1000:.1f}"])


def _trace_id(traceparent: str) -> str | None:
    match = _TRACEPARENT.fullmatch(traceparent)
    if match is None or set(match[1]) == {"0"} or set(match[2]) == {"0"}:
        return None
    return match[1]
