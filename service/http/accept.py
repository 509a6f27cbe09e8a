"""The form of answer that an `Accept` header requests (RFC 9110, section 12.5.1)."""

from __future__ import annotations

from service.errors import NotAcceptable
from service.imaging.segment_request import AnswerKind

LONGEST_ACCEPT = 2048


def wanted_answer(accept: str | None) -> AnswerKind:
    """Choose the form of the answer.

    Args:
        accept: value of the header; None without it.

    Returns:
        The kind with the highest quality; JSON before PNG before DICOM when equal. As in DICOMweb,
        `multipart/related; type="application/dicom"` requests several DICOM objects.

    Raises:
        NotAcceptable: the header accepts none of them.
    """
    if accept is None or not accept.strip():
        return AnswerKind.JSON
    ranges = [_media_range(part) for part in accept[:LONGEST_ACCEPT].split(",")]
    qualities = {kind: _quality(kind.value, ranges) for kind in AnswerKind}
    best = max(AnswerKind, key=lambda kind: qualities[kind])  # the first of equal ones
    if qualities[best] <= 0:
        raise NotAcceptable(
            "The answer can be application/json, image/png (one mask) or, when the image is "
            "DICOM, application/dicom or multipart/related; ask for one of them in the Accept "
            "header."
        )
    return best


def _media_range(part: str) -> tuple[str, float]:
    media, *parameters = [piece.strip().lower() for piece in part.split(";")]
    for parameter in parameters:
        if parameter.startswith("type=") and parameter[5:].strip('"') != AnswerKind.DICOM.value:
            return media, 0.0
        if parameter.startswith("q="):
            try:
                quality = float(parameter[2:])
            except ValueError:
                return media, 0.0
            return media, quality if 0.0 <= quality <= 1.0 else 0.0
    return media, 1.0


def _quality(media: str, ranges: list[tuple[str, float]]) -> float:
    """Return the quality of a media type, by the most specific range that covers it."""
    group = media.split("/")[0] + "/*"
    for pattern in (media, group, "*/*"):
        found = [quality for name, quality in ranges if name == pattern]
        if found:
            return max(found)
    return 0.0
