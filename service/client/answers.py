"""Answers of the service as plain data; anything else becomes an error."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

Box = tuple[float, float, float, float]
"""`x0, y0, x1, y1` in pixels of the image, half-open, origin top left."""


class SegmentError(Exception):
    """The service refused, or did not answer in time.

    Attributes:
        status: HTTP status, 0 when no answer came.
        code: the service's stable code; `no_answer` when none came, `unexpected_answer` when the
            answer was not the service's.
        request_id: id of the request in the operator's log, or "".
    """

    def __init__(self, status: int, code: str, sentence: str, request_id: str = "") -> None:
        """Keep the service's problem."""
        super().__init__(sentence)
        self.status = status
        self.code = code
        self.request_id = request_id


@dataclass(frozen=True)
class SegmentWarning:
    """One reason to look twice.

    Attributes:
        severity: `info`, `look` or `refuse`; "" from an older service.
        action: what to do about it; "" from an older service.
    """

    code: str
    message: str
    severity: str = ""
    action: str = ""


@dataclass(frozen=True)
class SegmentedMask:
    """One mask.

    Attributes:
        box: the requested box, in pixels.
        score: predicted IoU with the truth, 0 to 1.
        area_px: pixels of the mask.
        png: the mask as 8-bit PNG, 0 or 255, of the image's size; empty if `shapes` excludes it.
        fields: all members of the mask in the answer, by the names of `docs/http.md`.
    """

    box: Box
    score: float
    area_px: int
    png: bytes = field(repr=False)
    fields: Mapping[str, Any] = field(repr=False, default_factory=dict)

    @property
    def confidence(self) -> float | None:
        """Expected Dice by the mask's own probabilities, 0 to 1; None from an older service."""
        return self.fields.get("confidence")

    @property
    def structure(self) -> str | None:
        """`lungs`, `right_lung`, `left_lung` or `heart`; None from an older service."""
        return self.fields.get("structure")


@dataclass(frozen=True)
class Segmentation:
    """The answer to one request.

    Attributes:
        request_id: its id in the service's log.
        masks: one per box, in the order of the boxes.
        warnings: reasons to look twice.
        overlay: the X-ray with its masks, as PNG or JPEG; None if not requested.
        body: the whole JSON answer.
    """

    request_id: str
    masks: tuple[SegmentedMask, ...]
    warnings: tuple[SegmentWarning, ...]
    overlay: bytes | None = field(repr=False)
    body: Mapping[str, Any] = field(repr=False)

    @property
    def warning_codes(self) -> tuple[str, ...]:
        """Codes of the warnings."""
        return tuple(warning.code for warning in self.warnings)


def read_segmentation(answer: httpx.Response) -> Segmentation:
    """Read a JSON answer.

    Raises:
        SegmentError: the service refused, or the answer is not the service's.
    """
    require_ok(answer)
    body = _object_of(answer)
    try:
        overlay = body.get("overlay_png") or body.get("overlay_jpeg")
        return Segmentation(
            request_id=body["request_id"],
            masks=tuple(_mask(one) for one in body["masks"]),
            warnings=tuple(_warning(one) for one in body["warnings"]),
            overlay=None if overlay is None else base64.b64decode(overlay, validate=True),
            body=body,
        )
    except (KeyError, TypeError, ValueError, binascii.Error):
        raise _unexpected(answer) from None


def read_file(answer: httpx.Response, media_type: str) -> bytes:
    """Read an answer that is a file.

    Raises:
        SegmentError: the service refused, or the answer is of another kind.
    """
    require_ok(answer)
    if answer.headers.get("content-type", "").partition(";")[0].strip() != media_type:
        raise _unexpected(answer)
    return answer.content


def require_ok(answer: httpx.Response) -> None:
    """Raise the error of a refusal.

    Raises:
        SegmentError: the status is not 200.
    """
    if answer.status_code == 200:
        return
    problem = _object_of(answer)
    sentence = problem.get("detail") or f"The service answered {answer.status_code}."
    raise SegmentError(
        answer.status_code,
        str(problem.get("code", "unknown")),
        str(sentence),
        str(problem.get("request_id", "")),
    )


def _object_of(answer: httpx.Response) -> dict[str, Any]:
    try:
        body = answer.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _mask(one: Mapping[str, Any]) -> SegmentedMask:
    x0, y0, x1, y1 = (float(value) for value in one["bbox"])
    png = b"" if one["png"] is None else base64.b64decode(one["png"], validate=True)
    return SegmentedMask((x0, y0, x1, y1), float(one["score"]), int(one["area_px"]), png, one)


def _warning(one: Mapping[str, Any]) -> SegmentWarning:
    return SegmentWarning(
        str(one["code"]), str(one["message"]), one.get("severity", ""), one.get("action", "")
    )


def _unexpected(answer: httpx.Response) -> SegmentError:
    kind = answer.headers.get("content-type", "without a type")
    return SegmentError(
        answer.status_code,
        "unexpected_answer",
        f"What answered is not the segmentation service (its answer is {kind}); check the address "
        "and the proxy in between.",
        answer.headers.get("x-request-id", ""),
    )
