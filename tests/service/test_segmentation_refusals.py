"""Requests refused by `POST /segment`: status, code, one sentence, and nothing held."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import pytest

from tests.service.fake_model import (
    assert_nothing_is_held,
    form,
    make_app,
    picture,
    png,
    running,
    sample,
)

pytestmark = pytest.mark.anyio


REFUSED: list[tuple[str, dict[str, Any], dict[str, str], int, str]] = [
    ("zero bytes", {"files": {"image": ("a", b"")}}, {}, 400, "undecodable_image"),
    ("not an image", {"files": {"image": ("a", b"hello" * 9)}}, {}, 400, "undecodable_image"),
    ("truncated", {"files": {"image": ("a", png(picture())[:200])}}, {}, 400, "undecodable_image"),
    ("GIF", {"files": {"image": ("a", b"GIF89a" + b"0" * 50)}}, {}, 415, "unsupported_media_type"),
    ("missing", {"files": {"x": ("a", b"1")}}, {}, 422, "invalid_field"),
    ("no image", {"files": {"bbox": (None, b"0,0,9,9")}}, {}, 422, "missing_field"),
    ("unknown", form(bbx="0,0,9,9"), {}, 422, "invalid_field"),
    ("outside", form(bbox="0,0,97,80"), {}, 422, "invalid_box"),
    ("inverted", form(bbox="40,40,10,10"), {}, 422, "invalid_box"),
    ("NaN", form(bbox="nan,0,10,10"), {}, 422, "invalid_box"),
    ("infinite", form(bbox="0,0,inf,10"), {}, 422, "invalid_box"),
    ("five numbers", form(bbox="0,0,10,10,10"), {}, 422, "invalid_box"),
    ("thin", form(bbox="1,1,1.5,50"), {}, 422, "invalid_box"),
    ("convention", form(convention="both"), {}, 422, "invalid_field"),
    ("threshold", form(threshold="1.0"), {}, 422, "invalid_field"),
    ("json body", {"json": {"image": "x"}}, {}, 415, "unsupported_media_type"),
    ("two boxes as png", form(bbox=["0,0,9,9", "1,1,9,9"]), {"Accept": "image/png"}, 406,
     "not_acceptable"),
    ("png as dicom", form(), {"Accept": "application/dicom"}, 406, "not_acceptable"),
    ("as html", form(), {"Accept": "text/html"}, 406, "not_acceptable"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "headers", "status", "code"),
    [case[1:] for case in REFUSED],
    ids=[case[0] for case in REFUSED],
)
async def test_bad_input_gets_its_problem_and_the_server_goes_on(
    arguments: dict[str, Any], headers: dict[str, str], status: int, code: str
) -> None:
    """Status, code, one sentence twice, the id; then a good request is answered."""
    app = make_app()
    async with running(app) as client:
        response = await client.post("/segment", **arguments, headers=headers)
        after = await client.post("/segment", **form())
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == status
    assert problem["detail"] == problem["error"] != ""
    assert problem["request_id"] == response.headers["x-request-id"]
    assert "Traceback" not in response.text
    assert after.status_code == 200
    assert sample(app, "lungseg_rejected_total", reason=code) == 1
    assert_nothing_is_held(app)


def bomb_header(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header claims many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 1000)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


async def test_too_many_pixels_and_too_many_bytes_are_413_with_limit_and_actual() -> None:
    """Neither is decoded."""
    app = make_app(max_upload_bytes=20_000, max_pixels=1_000_000)
    async with running(app) as client:
        bomb: dict[str, Any] = {"files": {"image": ("a", bomb_header(10_000, 10_000))}}
        pixels = await client.post("/segment", **bomb)
        large = await client.post("/segment", files={"image": ("a", b"x" * 30_000)})
    assert (pixels.status_code, pixels.json()["code"]) == (413, "too_many_pixels")
    assert "100000000" in pixels.json()["detail"]
    assert "1000000" in pixels.json()["detail"]
    assert (large.status_code, large.json()["code"]) == (413, "payload_too_large")
    assert "20000" in large.json()["detail"]
    assert_nothing_is_held(app)


async def test_a_query_is_refused_instead_of_ignored() -> None:
    """`?convention=whole_lung` would silently give the other mask."""
    async with running(make_app()) as client:
        response = await client.post("/segment?convention=whole_lung", **form())
    assert (response.status_code, response.json()["code"]) == (422, "invalid_field")
