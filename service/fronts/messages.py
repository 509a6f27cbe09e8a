"""The messages of fronts and the serving process about a request, as JSON.

Both ends run the same code, and nobody else reaches the socket. X-rays and bodies of answers are
passed as shared memory. Times are of a clock that all processes of a machine share.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter

from service import errors
from service.imaging.segment_request import SegmentRequest
from service.request_record import RequestRecord, ServedName

REQUEST: TypeAdapter[SegmentRequest] = TypeAdapter(SegmentRequest)

KEY_HEADERS = ("authorization", "x-api-key")
"""Headers that the serving process needs to find a request's key."""

MOST_KEY_LENGTH = 8192
"""Longest header value that can be a key."""

GIVEN_UP = "given_up"
"""Stands for a code: the request ended because nobody waits for it."""

_LEARNED = (
    "decode_began_at",
    "image_format",
    "width",
    "height",
    "box_count",
    "batch_size",
    "stage_seconds",
)
_KINDS = {
    kind.code: kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, errors.ServiceError)
}


def refusal_fields(error: errors.ServiceError) -> dict[str, Any]:
    """Return a refusal as fields."""
    return {"code": error.code, "detail": error.detail, "retry_after_s": error.retry_after_s}


def refusal_of(fields: Mapping[str, Any]) -> errors.ServiceError:
    """Return the refusal in fields."""
    kind = _KINDS[fields["code"]]
    return kind(fields["detail"], retry_after_s=fields["retry_after_s"])


def begun_fields(record: RequestRecord) -> dict[str, Any]:
    """Return the fields of a new request for the serving process."""
    return {
        "request_id": record.request_id,
        "started_at": record.started_at,
        "key_name": record.key_name,
        "caller": record.caller,
    }


def begun_record(fields: Mapping[str, Any]) -> RequestRecord:
    """Return the serving process's record of a front's new request."""
    return RequestRecord(
        request_id=fields["request_id"],
        trace_id=None,
        started_at=fields["started_at"],
        key_name=fields["key_name"],
        caller=fields["caller"],
    )


def learned_fields(record: RequestRecord) -> dict[str, Any]:
    """Return what the serving process added to a request's record, as fields."""
    learned = {name: getattr(record, name) for name in _LEARNED}
    return learned | {
        "requested_model": record.requested_model,
        "warning_codes": list(record.warning_codes),
    }


def note_learned(record: RequestRecord, fields: Mapping[str, Any]) -> None:
    """Add the serving process's fields to a request's record."""
    for name in _LEARNED:
        setattr(record, name, fields[name])
    model = fields["requested_model"]
    record.requested_model = None if model is None else ServedName(*model)
    record.warning_codes = tuple(fields["warning_codes"])
