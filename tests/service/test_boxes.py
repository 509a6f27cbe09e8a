"""A box as text: what is read, and the sentence for everything else."""

from __future__ import annotations

import pytest

from model_store.boxes import validate_box
from service.errors import InvalidBox
from service.imaging.box_text import parse_box


@pytest.mark.parametrize(
    ("text", "box"),
    [
        ("0,0,511,511", (0.0, 0.0, 511.0, 511.0)),
        ("0.5,1.25,+3,4.", (0.5, 1.25, 3.0, 4.0)),
        (" 1, 2 ,3,\t4", (1.0, 2.0, 3.0, 4.0)),
        (".5,0,1e2,1E2", (0.5, 0.0, 100.0, 100.0)),
    ],
)
def test_reads_four_numbers(text: str, box: tuple[float, ...]) -> None:
    assert parse_box(text) == box


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "4 numbers, but 1"),
        ("1,2,3", "4 numbers, but 3"),
        ("1,2,3,4,5", "4 numbers, but 5"),
        ("1 2 3 4", "4 numbers, but 1"),
        ("1,2,,4", "not a decimal"),
        ("a,b,c,d", "not a decimal"),
        ("0x1,0,3,4", "not a decimal"),
        ("1_0,0,30,40", "not a decimal"),
        ("١,0,3,4", "not a decimal"),
        ("nan,0,3,4", "finite"),
        ("0,0,inf,4", "finite"),
        ("0,0,Infinity,4", "finite"),
        ("0,0,1e999,4", "finite"),
        ("5,0,5,4", "empty or inverted"),
        ("5,0,4,4", "empty or inverted"),
        ("0,9,4,4", "empty or inverted"),
        ("-1,0,4,4", "negative"),
        ("0,-0.002,4,4", "negative"),
        ("1," * 200, "longer than 256"),
    ],
)
def test_refuses_everything_else_with_a_sentence(text: str, said: str) -> None:
    with pytest.raises(InvalidBox, match=said):
        parse_box(text)


@pytest.mark.parametrize("text", ["-0.0005,0,4,4", "0,-1e-3,4.0009,4", "-1e-9,-1e-9,4,4.001"])
def test_what_rounding_puts_before_or_behind_the_image_lies_on_its_edge(text: str) -> None:
    assert validate_box(parse_box(text), 4, 4) == (0.0, 0.0, 4.0, 4.0)


def test_message_does_not_repeat_what_was_sent() -> None:
    with pytest.raises(InvalidBox) as caught:
        parse_box("Jane Doe,2,3,4")
    assert "Jane" not in caught.value.detail
