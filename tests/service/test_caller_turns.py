"""Turns: each caller's oldest in turn, whoever sends more."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from service.caller_turns import CallerTurns
from service.http.callers import caller_at
from tests.service.fake_model import (
    FakeInfo,
    FakePredictor,
    Gate,
    assert_nothing_is_held,
    form,
    make_app,
    picture,
    running,
    until,
)

MANY = 12


def order(turns: CallerTurns[str]) -> list[str]:
    found = []
    while (item := turns.take()) is not None:
        found.append(item)
    return found


def filled(*items: str) -> CallerTurns[str]:
    """Turns with items whose caller is their first letter."""
    turns: CallerTurns[str] = CallerTurns()
    for item in items:
        turns.put(item[0], item)
    return turns


def test_callers_go_in_turn_and_each_callers_own_in_their_order() -> None:
    turns = filled("a1", "a2", "a3", "b1", "c1", "b2")
    assert list(turns.oldest()) == ["a1", "b1", "c1"]
    assert order(turns) == ["a1", "b1", "c1", "a2", "b2", "a3"]
    assert len(turns) == 0


def test_who_comes_again_goes_behind_those_who_wait() -> None:
    turns = filled("a1", "a2", "b1")
    assert turns.take() == "a1"
    turns.put("c", "c1")
    turns.put("b", "b2")
    assert order(turns) == ["b1", "a2", "c1", "b2"]


def test_one_that_may_not_go_keeps_its_place_and_its_caller_the_turn() -> None:
    turns = filled("a1", "a2", "b1")
    assert turns.take(lambda item: item != "a1") == "a2"
    assert turns.take(lambda item: False) is None
    assert order(turns) == ["b1", "a1"]


def test_what_is_taken_out_costs_no_turn_and_callers_without_items_are_forgotten() -> None:
    turns = filled("a1", "a2", "b1")
    turns.remove("a", "a1")
    turns.remove("a", "a1")
    turns.remove("c", "c1")
    assert order(turns) == ["a2", "b1"]
    assert list(turns.oldest()) == []
    assert sorted(filled("a1", "b1", "a2").empty()) == ["a1", "a2", "b1"]


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("::ffff:10.0.0.1", "::ffff:10.0.0.2", False),
        ("fe80::1%eth0", "fe80::2", True),
        ("/run/lungseg:1", "/run/lungseg:1", True),
    ],
)
def test_an_address_is_a_caller_and_so_is_an_ipv6_network(
    one: str, other: str, is_same: bool
) -> None:
    assert (caller_at((one, 1)) == caller_at((other, 2))) == is_same
    assert caller_at(None) != caller_at((one, 1))


class Watched:
    """A model that is held until all have asked, and notes whose X-ray it gets.

    Attributes:
        gate: holds it.
        order: "many" or "few" for each X-ray.
    """

    def __init__(self) -> None:
        self.gate = Gate()
        self.order: list[str] = []

    def before(self, requests: Sequence[Any]) -> None:
        self.gate.hold(requests)
        is_high = requests[0].height > requests[0].width
        self.order.append("few" if is_high else "many")


async def serve(app: FastAPI, gate: Gate, many: Mapping[str, Any], few: Mapping[str, Any]) -> None:
    """Sends `MANY` wide X-rays of one caller, then a high one of another."""

    async def send(size: tuple[int, int], caller: Mapping[str, Any]) -> None:
        transport = httpx.ASGITransport(app=app, client=caller.get("client", ("127.0.0.1", 1)))
        sent = form(picture(size=size))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            answer = await client.post("/segment", **sent, headers=caller.get("headers"))
        assert answer.status_code == 200

    device = app.state.service.host.devices[0]
    asked = [asyncio.create_task(send((96, 80), many)) for _ in range(MANY)]
    await until(lambda: device.jobs == MANY)
    asked.append(asyncio.create_task(send((80, 96), few)))
    await until(lambda: device.jobs == MANY + 1)
    gate.opened.set()
    await asyncio.gather(*asked)


@pytest.mark.anyio
@pytest.mark.parametrize(("device", "max_batch", "latest"), [("cpu", 4, 3), ("cuda:0", 2, 5)])
async def test_a_caller_of_many_requests_keeps_nobody_waiting_for_more_than_its_turn(
    device: str, max_batch: int, latest: int
) -> None:
    """Behind what the device has already been handed, and one more."""
    model = Watched()
    app = make_app(FakePredictor(model.before, FakeInfo(device=device)), max_batch=max_batch)
    async with running(app):
        callers = [{"client": (f"127.0.0.{number}", 1)} for number in (2, 3)]
        await serve(app, model.gate, *callers)
    assert model.order.index("few") <= latest, model.order
    assert_nothing_is_held(app)


@pytest.mark.anyio
async def test_callers_of_one_address_are_told_apart_by_their_keys(tmp_path: Path) -> None:
    lines = [f"{hashlib.sha256(key.encode()).hexdigest()} name={key}" for key in ("one", "other")]
    (tmp_path / "keys").write_text("\n".join(lines))
    model = Watched()
    app = make_app(FakePredictor(model.before), api_keys_file=tmp_path / "keys")
    async with running(app):
        callers = [{"headers": {"X-API-Key": key}} for key in ("one", "other")]
        await serve(app, model.gate, *callers)
    assert model.order.index("few") <= 3, model.order


@pytest.mark.anyio
async def test_a_caller_of_many_requests_is_refused_before_the_queue_is_full_for_others() -> None:
    gate = Gate()
    app = make_app(FakePredictor(gate.hold), queue_limit=4)

    async def send(number: int) -> httpx.Response:
        transport = httpx.ASGITransport(app=app, client=(f"127.0.0.{number}", 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.post("/segment", **form())

    async with running(app):
        few = asyncio.create_task(send(2))
        assert await asyncio.to_thread(gate.entered.wait, 20)  # the model has it: nobody waits
        many = [asyncio.create_task(send(3)) for _ in range(6)]
        await until(lambda: sum(one.done() for one in many) == 3)
        assert app.state.service.admission.waiting == 3
        refused = [one.result() for one in many if one.done()]
        assert {(one.status_code, one.json()["code"]) for one in refused} == {(429, "queue_full")}
        assert all("of your requests" in one.json()["detail"] for one in refused)
        another = asyncio.create_task(send(2))
        await until(lambda: app.state.service.admission.waiting == 4)
        gate.opened.set()
        answered = [await one for one in (few, another, *many)]
    assert [one.status_code for one in answered].count(200) == 5
    assert_nothing_is_held(app)
