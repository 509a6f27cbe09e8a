"""Memory of unfinished uploads: bounded, and slow uploads make room for those that come."""

from __future__ import annotations

import pytest

from service.errors import QueueFull
from service.pipeline.upload_budget import PIECE_BYTES, SLOW_S, UploadBudget, UploadShare


class Clock:
    """Time as a test sets it."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Uploads:
    """Uploads by name, and which of them made room."""

    def __init__(self, limit_bytes: int) -> None:
        self.clock = Clock()
        self.budget = UploadBudget(limit_bytes, self.clock)
        self.ended: list[str] = []

    def begin(self, name: str) -> UploadShare:
        return self.budget.begin(lambda: self.ended.append(name))


def test_the_bytes_of_all_uploads_are_bounded_and_come_back() -> None:
    uploads = Uploads(100)
    first, second = uploads.begin("first"), uploads.begin("second")
    first.add(60)
    with pytest.raises(QueueFull, match="limit is 100"):
        second.add(60)
    second.close()
    assert uploads.budget.held_bytes == 60
    first.close()
    first.close()
    assert uploads.budget.held_bytes == 0
    assert not uploads.ended


def test_the_upload_that_waits_longest_makes_room_and_no_other() -> None:
    uploads = Uploads(4 * PIECE_BYTES + 100)
    stalled, trickling, quick = map(uploads.begin, ("stalled", "trickling", "quick"))
    stalled.add(PIECE_BYTES)
    uploads.clock.now_s += 0.5
    trickling.add(PIECE_BYTES)
    for _ in range(10):
        uploads.clock.now_s += SLOW_S / 5
        trickling.add(1)
        quick.add(PIECE_BYTES // 5 + 1)
    newcomer = uploads.begin("newcomer")
    newcomer.add(PIECE_BYTES)
    assert uploads.ended == ["stalled"]
    newcomer.add(PIECE_BYTES)
    assert uploads.ended == ["stalled", "trickling"]
    with pytest.raises(QueueFull):
        newcomer.add(3 * PIECE_BYTES)


def test_an_upload_that_made_room_counts_nothing_more() -> None:
    uploads = Uploads(100)
    stalled = uploads.begin("stalled")
    stalled.add(90)
    uploads.clock.now_s += 2 * SLOW_S
    uploads.begin("newcomer").add(90)
    stalled.add(50)
    stalled.close()
    assert uploads.ended == ["stalled"]
    assert uploads.budget.held_bytes == 90


def test_quick_uploads_are_never_ended_for_others() -> None:
    uploads = Uploads(2 * PIECE_BYTES)
    first = uploads.begin("first")
    first.add(2 * PIECE_BYTES)
    uploads.clock.now_s += 0.9 * SLOW_S
    with pytest.raises(QueueFull):
        uploads.begin("second").add(1)
    assert not uploads.ended
