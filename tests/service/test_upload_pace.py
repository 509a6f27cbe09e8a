"""Uploads of one caller leave the event loop to others, and are as quick as they come without."""

from __future__ import annotations

import asyncio
import time

import pytest

from service.http.upload import RequestBody, UploadLimits, read_upload
from service.pipeline.upload_pace import ABOUT_S, SHARE_OF_A_CPU, UNNOTICED_S, UploadPace

PIECE_S = 0.001
SHARE = 2 * SHARE_OF_A_CPU


class Clock:
    """Time as a test sets it."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def paced(cpus: int = 2) -> tuple[UploadPace, Clock]:
    clock = Clock()
    return UploadPace(clock, lambda: cpus), clock


def taken(pace: UploadPace, clock: Clock, caller: str, pieces: int) -> float:
    """Seconds until a caller's pieces are taken, each after the pause for the one before."""
    began = clock.now_s
    for _ in range(pieces):
        clock.now_s += PIECE_S + pace.pause_after(caller, PIECE_S)
    return clock.now_s - began


def test_a_caller_alone_is_never_held_back() -> None:
    pace, clock = paced()
    with pace.running("a"), pace.running("a"):
        assert taken(pace, clock, "a", 1000) == pytest.approx(1000 * PIECE_S)


def test_beside_another_one_it_takes_its_share_and_no_more() -> None:
    pace, clock = paced()
    with pace.running("a"), pace.running("b"):
        took_s = taken(pace, clock, "a", 1000)
        assert 1000 * PIECE_S / took_s == pytest.approx(SHARE, rel=0.02)
        assert taken(pace, clock, "b", 2) == pytest.approx(2 * PIECE_S)  # its own account


def test_another_one_is_about_for_a_moment_after_its_request() -> None:
    pace, clock = paced()
    with pace.running("a"):
        with pace.running("b"):
            pass
        assert taken(pace, clock, "a", 100) > 50 * PIECE_S / SHARE
        clock.now_s += 2 * ABOUT_S
        assert taken(pace, clock, "a", 100) == pytest.approx(100 * PIECE_S)


def test_all_uploads_of_a_caller_have_one_account() -> None:
    pace, _ = paced()
    with pace.running("a"), pace.running("b"):
        pauses = [pace.pause_after("a", PIECE_S) for _ in range(8)]  # of eight at the same time
    assert pauses[-1] == pytest.approx(8 * PIECE_S / SHARE)


def test_an_ordinary_upload_is_not_held_back() -> None:
    pace, _ = paced()
    with pace.running("a"), pace.running("b"):
        assert pace.pause_after("a", 0.99 * SHARE * UNNOTICED_S) == 0.0


def test_many_processors_are_not_taken_from_anybody() -> None:
    pace, clock = paced(cpus=20)
    with pace.running("a"), pace.running("b"):
        assert taken(pace, clock, "a", 1000) == pytest.approx(1000 * PIECE_S)


def test_who_has_left_is_forgotten() -> None:
    pace, _ = paced()
    with pace.running("b"):
        with pace.running("a"):
            pace.pause_after("a", 10.0)
        with pace.running("a"):
            assert pace.pause_after("a", 0.0) == 0.0
    assert not pace._running and not pace._free_at


@pytest.mark.anyio
async def test_reading_waits_before_each_piece_but_not_after_the_last() -> None:
    pieces = [b"x" * 1000] * 4
    left, told = list(pieces), 0

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    def pause_after(spent_s: float) -> float:
        nonlocal told
        assert spent_s >= 0
        told += 1
        return 0.05

    limits = UploadLimits(max_bytes=10_000, max_fields=4)
    began = time.monotonic()
    headers = {"content-type": "application/dicom"}
    async with asyncio.timeout(30):
        with await read_upload(
            RequestBody(receive), headers, [], limits, lambda size: None, pause_after
        ) as upload:
            assert upload.size_bytes == 4000
    assert told == 4
    assert time.monotonic() - began >= 0.15
