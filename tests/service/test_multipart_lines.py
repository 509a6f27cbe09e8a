"""Forms as the RFCs allow them, however they are cut into pieces."""

from __future__ import annotations

import random

import pytest

from service.errors import MalformedRequest
from service.http.multipart_lines import MAX_HEAD_BYTES, MAX_PREAMBLE_BYTES, MultipartLines
from tests.service.test_upload import part, read

pytestmark = pytest.mark.anyio
SIZES = (1, 2, 3, 7, 64, 100_000)
NAME = 'Content-Disposition: form-data; name="bbox"'


def form(head: str = NAME, *, padding: str = "", value: bytes = b"1,2,3,4") -> bytes:
    """One field, with blanks behind both boundaries."""
    opening = f"--b{padding}\r\n{head}\r\n\r\n".encode()
    return opening + value + f"\r\n--b--{padding}\r\n".encode()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("padding", [" ", "\t", " \t  "])
async def test_blanks_behind_a_boundary_are_padding(size: int, padding: str) -> None:
    assert (await read(form(padding=padding), size=size)).fields == (("bbox", b"1,2,3,4"),)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "head",
    [
        'Content-Disposition: form-data;\r\n name="bbox"',
        'Content-Disposition:\r\n\tform-data;\r\n  name="bbox"\r\nContent-Type: text/plain',
        'Content-Type: text/plain;\r\n x=y\r\nContent-Disposition: form-data; name="bbox"',
    ],
)
async def test_a_header_may_go_on_in_the_next_line(size: int, head: str) -> None:
    assert (await read(form(head), size=size)).fields == (("bbox", b"1,2,3,4"),)


@pytest.mark.parametrize("size", SIZES)
async def test_preamble_and_epilogue_are_ignored(size: int) -> None:
    preamble = b"This is a form.\r\n--bb is no boundary\r\n"
    epilogue = b"\r\n--b\r\nthe end\r\n\r\n"
    data = preamble + form() + epilogue
    assert (await read(data, size=size)).fields == (("bbox", b"1,2,3,4"),)


@pytest.mark.parametrize("size", SIZES)
async def test_a_form_may_end_without_a_line_end(size: int) -> None:
    assert (await read(form()[:-2], size=size)).fields == (("bbox", b"1,2,3,4"),)


@pytest.mark.parametrize("seed", range(20))
async def test_the_bytes_of_fields_pass_as_they_are(seed: int) -> None:
    """Values full of what boundaries, folds and ends of headers are made of."""
    rng = random.Random(seed)
    words = [
        b"\r",
        b"\n",
        b"\r\n",
        b"-",
        b"--b",
        b"\r\n--",
        b"\r\n--bx",
        b" ",
        b"\r\n\r\n",
        b"\r\n \t",
    ]
    value = b"".join(rng.choice(words) for _ in range(60)).replace(b"\r\n--b", b"\r\n--B")
    data = part("image", value) + part("bbox", b"1,2,3,4") + b"--b--\r\n"
    for size in SIZES:
        upload = await read(data, size=size)
        assert upload.fields == (("image", b""), ("bbox", b"1,2,3,4"))
        assert upload.image is not None
        with upload.image:
            assert upload.image.read() == value


def test_nothing_is_copied_of_pieces_inside_a_field() -> None:
    lines = MultipartLines(b"b")
    lines.rewritten(b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\n')
    piece = bytes(range(14, 256)) * 100
    assert lines.rewritten(piece) is piece


async def test_what_does_not_end_is_refused_early() -> None:
    with pytest.raises(MalformedRequest, match="headers of a part"):
        MultipartLines(b"b").rewritten(b"--b\r\n" + b"X: y\r\n" * MAX_HEAD_BYTES)
    with pytest.raises(MalformedRequest, match="no boundary"):
        MultipartLines(b"b").rewritten(b"x" * (MAX_PREAMBLE_BYTES + 1))
    for cut in (b"--b \r\n" + NAME.encode(), form(value=b"")[:-8], b"--b", b"--b--"):
        with pytest.raises(MalformedRequest):
            await read(cut)
