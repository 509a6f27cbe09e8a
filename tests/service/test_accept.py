"""Content negotiation of `POST /segment`."""

from __future__ import annotations

import pytest

from service.errors import NotAcceptable
from service.http.accept import wanted_answer
from service.imaging.segment_request import AnswerKind


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (None, AnswerKind.JSON),
        ("", AnswerKind.JSON),
        ("*/*", AnswerKind.JSON),
        ("application/json", AnswerKind.JSON),
        ("image/png", AnswerKind.PNG),
        ("IMAGE/PNG", AnswerKind.PNG),
        ("image/*", AnswerKind.PNG),
        ("application/*", AnswerKind.JSON),
        ("application/dicom", AnswerKind.DICOM),
        ("application/dicom; q=1, application/json; q=0.5", AnswerKind.DICOM),
        ("image/png;q=0.2, */*;q=0.1", AnswerKind.PNG),
        ("image/png, application/json", AnswerKind.JSON),
        ("application/json;q=0, */*", AnswerKind.PNG),
        ("text/html, */*;q=0.8", AnswerKind.JSON),
    ],
)
def test_the_header_chooses_the_form(accept: str | None, kind: AnswerKind) -> None:
    """Quality first, then the more specific range, then JSON before PNG before DICOM."""
    assert wanted_answer(accept) is kind


@pytest.mark.parametrize(
    "accept", ["text/html", "image/jpeg", "*/*;q=0", "image/png;q=oops", ",;,"]
)
def test_forms_that_do_not_exist_are_refused(accept: str) -> None:
    """And the sentence names those that do."""
    with pytest.raises(NotAcceptable, match="application/json"):
        wanted_answer(accept)
