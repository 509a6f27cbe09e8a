"""What fronts and the serving process say to each other about a request, as JSON.

Both ends run the same code, and nobody else reaches the socket. An X-ray and an answer's body are
passed as shared memory. Times are those of a clock that all processes of a machine share.
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
"""What the serving process has to see of a request to know its key."""

MOST_KEY_LENGTH = 8192
"""What is longer is no key."""

GIVEN_UP = "given_up"
"""In place of a code: the request was ended because nobody waits for it."""

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
    """Return what makes the same refusal on the other side."""
    return {"code": error.code, "detail": error.detail, "retry_after_s": error.retry_after_s}


def refusal_of(fields: Mapping[str, Any]) -> errors.ServiceError:
    """Return the refusal that the other side made."""
    kind = _KINDS[fields["code"]]
    return kind(fields["detail"], retry_after_s=fields["retry_after_s"])


def begun_fields(record: RequestRecord) -> dict[str, Any]:
    """Return what the serving process has to know of a request that a front has begun."""
    return {
        "request_id": record.request_id,
        "started_at": record.started_at,
        "key_name": record.key_name,
        "caller": record.caller,
    }


def begun_record(fields: Mapping[str, Any]) -> RequestRecord:
    """Return the serving process's record of a request that a front has begun."""
    return RequestRecord(
        request_id=fields["request_id"],
        trace_id=None,
        started_at=fields["started_at"],
        key_name=fields["key_name"],
        caller=fields["caller"],
    )


def learned_fields(record: RequestRecord) -> dict[str, Any]:
    """Return what the serving process has learned of a request."""
    learned = {name: getattr(record, name) for name in _LEARNED}
    return learned | {
        "requested_model": record.requested_model,
        "warning_codes": list(record.warning_codes),
    }


def note_learned(record: RequestRecord, fields: Mapping[str, Any]) -> None:
    """Take over what the serving process has learned."""
    for name in _LEARNED:
        setattr(record, name, fields[name])
    model = fields["requested_model"]
    record.requested_model = None if model is None else ServedName(*model)
    record.warning_codes = tuple(fields["warning_codes"])
