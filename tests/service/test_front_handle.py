"""When the serving process takes a front for hung, and when not."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Any

import pytest

from service.fronts import front_handle
from service.fronts.front_handle import FrontEvents, FrontHandle
from service.fronts.front_processes import freest
from service.workers.framing import Frame, FrameReader, Kind, receive, send

pytestmark = pytest.mark.anyio


class FrontInThisProcess:
    """The other end of a handle's socket, and what the handle does to the process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ours, theirs = socket.socketpair()
        self.ours.settimeout(10)
        self.reader = FrameReader()
        self.kills = 0
        self.lost: list[str] = []
        self.log_lost: list[int] = []
        monkeypatch.setattr(front_handle, "start_child", lambda module: (theirs, self))
        monkeypatch.setattr(front_handle, "BEAT_S", 1000.0)  # only the test lets time pass
        events = FrontEvents(
            on_ready=lambda front: None,
            on_change=lambda: None,
            on_closed=lambda reason, count: None,
            on_unparsed=lambda count: None,
            on_log_lost=self.log_lost.append,
            on_lost=lambda front, how: self.lost.append(how),
        )
        nothing: Any = None
        self.handle = FrontHandle({}, nothing, nothing, events)
        assert receive(self.ours, self.reader).kind is Kind.CONFIG

    def kill(self) -> None:
        self.kills += 1

    def wait(self, timeout_s: float) -> None:
        pass

    async def say(self, kind: Kind, **fields: int) -> None:
        send(self.ours, Frame(kind, fields))
        for _ in range(3):  # its turn in the event loop
            await asyncio.sleep(0)

    def close(self) -> None:
        self.handle._beat.cancel()
        self.handle._channel.close()
        self.ours.close()


async def test_it_is_ended_after_so_many_questions_without_an_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    front = FrontInThisProcess(monkeypatch)
    await front.say(Kind.READY)
    for _ in range(front_handle.HUNG_AFTER):
        front.handle._ask()
        assert receive(front.ours, front.reader).kind is Kind.ASK_ALIVE
    assert front.lost == []
    front.handle._ask()
    assert (front.lost, front.kills, front.handle.is_ready) == (["hung"], 1, False)
    front.close()


async def test_an_answer_begins_the_count_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    front = FrontInThisProcess(monkeypatch)
    await front.say(Kind.READY)
    for number in range(3 * front_handle.HUNG_AFTER):
        front.handle._ask()
        if number % 5 == 4:
            assert front.handle.is_silent
            await front.say(Kind.ALIVE, log_lines_lost=0)
            assert not front.handle.is_silent
    assert front.lost == []
    front.close()


async def test_one_that_never_becomes_ready_is_ended_later(monkeypatch: pytest.MonkeyPatch) -> None:
    front = FrontInThisProcess(monkeypatch)
    for _ in range(front_handle.NOT_STARTED_AFTER):
        front.handle._ask()
    assert front.lost == []
    front.handle._ask()
    assert front.lost == ["hung"]
    front.close()


async def test_a_serving_process_that_stood_still_takes_no_front_for_hung(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    front = FrontInThisProcess(monkeypatch)
    await front.say(Kind.READY)
    monkeypatch.setattr(front_handle, "BEAT_S", 0.01)
    front.handle._ask()
    time.sleep(0.01 * 5 * front_handle.HUNG_AFTER)  # of the event loop: no question is asked
    await asyncio.sleep(0)
    assert front.handle.unanswered <= 2
    assert front.lost == []
    front.close()


async def test_new_connections_go_to_a_front_that_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = FrontInThisProcess(monkeypatch), FrontInThisProcess(monkeypatch)
    first.handle.connections, second.handle.connections = 1, 5
    both = [first.handle, second.handle]
    assert freest(both) is first.handle
    first.handle.unanswered = front_handle.SILENT_AFTER
    assert freest(both) is second.handle
    second.handle.unanswered = front_handle.SILENT_AFTER
    assert freest(both) is first.handle
    for each in (first, second):
        each.close()


async def test_lines_that_it_could_not_log_are_counted_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    front = FrontInThisProcess(monkeypatch)
    await front.say(Kind.READY)
    for lines in (0, 3, 3, 7):
        await front.say(Kind.ALIVE, log_lines_lost=lines)
    assert sum(front.log_lost) == 7
    front.close()
