"""The form: known fields, allowed values, and refusals that say what is allowed."""

from __future__ import annotations

import pytest

from service.errors import InvalidBox, InvalidField, MissingField, ServiceError
from service.http.form import read_form
from service.imaging.segment_request import AnswerKind, OverlayFormat

IMAGE = ("image", b"bytes")


def test_defaults() -> None:
    """Only the image is required."""
    form = read_form([IMAGE], AnswerKind.JSON, max_boxes=4)
    assert (form.boxes, form.convention, form.threshold) == ((), "lung_field", 0.5)
    assert form.wants_overlay


def test_every_field_is_read() -> None:
    """In the order sent."""
    fields = [
        ("bbox", b"0,0,10,10"),
        ("threshold", b" 0.25 "),
        IMAGE,
        ("bbox", b"1.5, 2, 3, 4e1"),
        ("overlay", b"False"),
        ("convention", b"whole_lung"),
    ]
    form = read_form(fields, AnswerKind.JSON, max_boxes=4)
    assert form.boxes == ((0.0, 0.0, 10.0, 10.0), (1.5, 2.0, 3.0, 40.0))
    assert (form.convention, form.threshold) == ("whole_lung", 0.25)
    assert not form.wants_overlay


@pytest.mark.parametrize(
    ("word", "kind", "expected"),
    [
        (b"true", AnswerKind.JSON, OverlayFormat.PNG),
        (b"JPEG", AnswerKind.JSON, OverlayFormat.JPEG),
        (b"no", AnswerKind.JSON, None),
        (b"jpeg", AnswerKind.PNG, None),
    ],
)
def test_the_overlay_has_the_format_asked_for(
    word: bytes, kind: AnswerKind, expected: OverlayFormat | None
) -> None:
    form = read_form([IMAGE, ("overlay", word)], kind, max_boxes=4)
    assert form.overlay_in_answer is expected


@pytest.mark.parametrize(
    ("fields", "error", "said"),
    [
        ([], MissingField, "image"),
        ([("bbox", b"0,0,1,1")], MissingField, "image"),
        ([IMAGE, IMAGE], InvalidField, "more than once"),
        ([IMAGE, ("bbx", b"1")], InvalidField, "'bbx'"),
        ([IMAGE, ("convention", b"lungs")], InvalidField, "lung_field, whole_lung"),
        ([IMAGE, ("convention", b"a"), ("convention", b"a")], InvalidField, "more than once"),
        ([IMAGE, ("threshold", b"0")], InvalidField, "above 0 and below 1"),
        ([IMAGE, ("threshold", b"1")], InvalidField, "above 0 and below 1"),
        ([IMAGE, ("threshold", b"nan")], InvalidField, "above 0 and below 1"),
        ([IMAGE, ("threshold", b"inf")], InvalidField, "above 0 and below 1"),
        ([IMAGE, ("threshold", b"0.5_0")], InvalidField, "above 0 and below 1"),
        ([IMAGE, ("threshold", "٠.٥".encode())], InvalidField, "above 0 and below 1"),
        ([IMAGE, ("threshold", b"1e400")], InvalidField, "above 0 and below 1"),
        ([IMAGE, ("threshold", b"0.99999999999999999999")], InvalidField, "above 0 and below 1"),
        ([IMAGE, ("threshold", b"half")], InvalidField, "above 0 and below 1"),
        ([IMAGE, ("threshold", b"\xff")], InvalidField, "UTF-8"),
        ([IMAGE, ("overlay", b"maybe")], InvalidField, "true or false"),
        ([IMAGE, ("overlay", b"png")], InvalidField, "or jpeg"),
        ([IMAGE, ("bbox", b"1,2,3,4,5")], InvalidBox, "5"),
        ([IMAGE, ("bbox", b"nan,0,1,1")], InvalidBox, "finite"),
        ([IMAGE, ("bbox", b"5,5,1,1")], InvalidBox, "x0 < x1"),
        ([IMAGE] + [("bbox", b"0,0,9,9")] * 5, InvalidField, "one request may have 4"),
    ],
)
def test_refusals_say_what_is_wrong(
    fields: list[tuple[str, bytes]], error: type[ServiceError], said: str
) -> None:
    """One sentence each."""
    with pytest.raises(error) as caught:
        read_form(fields, AnswerKind.JSON, max_boxes=4)
    assert said in caught.value.detail
