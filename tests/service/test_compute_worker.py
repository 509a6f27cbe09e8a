"""The compute thread: every caller gets an answer, whatever the model does."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from service.compute.compute_job import Job
from service.compute.compute_worker import ComputeWorker
from service.compute.cpu_turns import CpuTurns
from service.compute.network_data import BoxLogits, NetworkInput, NetworkOutput
from service.errors import ComputeLost, Draining, InternalError, InvalidBox
from tests.service.fake_model import (
    INPUT_SIDE,
    FakeInfo,
    FakePredictor,
    FakeSource,
    Gate,
    output_about,
)

Start = Callable[..., ComputeWorker]


WHOLE = (0.0, 0.0, 8.0, 8.0)


def request(level: int = 200, side: int = INPUT_SIDE) -> NetworkInput:
    """A flat image; `level` says whose it is."""
    return NetworkInput(bytes([level]) * side**2, side, 8, 8, (WHOLE,), "lung_field")


def is_lung(job: Job) -> bool:
    """Whether the answer says that every pixel is lung; waits for it."""
    logits = np.frombuffer(job.future.result(10).output.masks[0].logits, np.float32)
    return bool((logits > 0).all())


def wait_until(condition: Callable[[], bool]) -> None:
    """Waits until a condition holds."""
    stop_at = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < stop_at
        time.sleep(0.005)


def nothing() -> None:
    """Told that a job was taken."""


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts workers and stops them after the test."""
    workers: list[ComputeWorker] = []

    def make(model: Any, **changes: Any) -> ComputeWorker:
        arguments: dict[str, Any] = {
            "source": FakeSource(model),
            "max_batch": 4,
            "on_batch": lambda size, seconds: None,
        }
        worker = ComputeWorker(**(arguments | changes))
        worker.start()
        workers.append(worker)
        return worker

    yield make
    for worker in workers:
        assert worker.close(10)


def queued_behind(gate: Gate, worker: ComputeWorker, requests: Sequence[Any]) -> list[Job]:
    """Occupies the worker, then queues requests, so that they meet in one batch."""
    worker.submit(request(), nothing)
    assert gate.entered.wait(10)
    return [worker.submit(one, nothing) for one in requests]


def test_waiting_requests_meet_in_batches_up_to_the_limit(start: Start) -> None:
    """One, then four, then the last two; and each gets its own mask."""
    gate = Gate()
    predictor = FakePredictor(gate.hold, FakeInfo(device="cuda"))
    worker = start(predictor)
    jobs = queued_behind(gate, worker, [request(200 if i % 2 else 50) for i in range(6)])
    gate.opened.set()
    results = [job.future.result(10) for job in jobs]
    assert predictor.batch_sizes == [1, 4, 2]
    assert [is_lung(job) for job in jobs] == [False, True] * 3
    assert [r.batch_size for r in results] == [4, 4, 4, 4, 2, 2]
    assert all(result.queue_s >= 0 for result in results)


def test_one_bad_item_does_not_take_its_neighbours_along(start: Start) -> None:
    """Only the bad one fails, without the model's own words."""
    gate = Gate()

    def before(requests: Sequence[Any]) -> None:
        gate.hold(requests)
        if any(one.pixels[0] == 13 for one in requests):
            raise ValueError("DOE^JOHN")

    worker = start(FakePredictor(before, FakeInfo(device="cuda")))
    jobs = queued_behind(gate, worker, [request(200), request(13), request(201)])
    gate.opened.set()
    assert jobs[0].future.result(10).batch_size == 3
    assert is_lung(jobs[2])
    with pytest.raises(InternalError) as caught:
        jobs[1].future.result(10)
    assert "DOE" not in caught.value.detail


def test_a_refusal_of_the_model_reaches_its_caller(start: Start) -> None:
    """A ServiceError is passed on as it is."""

    def before(requests: Sequence[Any]) -> None:
        raise InvalidBox("The box is outside.")

    job = start(FakePredictor(before)).submit(request(), nothing)
    with pytest.raises(InvalidBox):
        job.future.result(10)


class Crooked(FakePredictor):
    """A model whose answers do not fit."""

    def __init__(self, spoil: Callable[[list[Any]], list[Any]]) -> None:
        """Keeps how answers are spoilt."""
        super().__init__()
        self._spoil = spoil

    def answer_batch(self, requests: Sequence[Any]) -> list[Any]:
        """Answers, spoilt."""
        return self._spoil(list(super().answer_batch(requests)))


def says(box: Any = WHOLE) -> list[Any]:
    """One answer about one box: 4 x 4 logits of 0."""
    return [NetworkOutput((BoxLogits(box, bytes(64), 4, 0.5),), {})]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda answers: answers[:-1],
        lambda answers: answers * 2,
        lambda answers: [NetworkOutput((), {})],
        lambda answers: [NetworkOutput(answers[0].masks * 2, {})],
        lambda answers: says(box=(0.0, 0.0, 8.0, 7.0)),
    ],
)
def test_answers_out_of_step_cost_the_model_its_place(
    start: Start, spoil: Callable[[list[Any]], list[Any]]
) -> None:
    """Too few, too many, about other boxes: whose the next answer would be, nobody can say."""
    source = FakeSource(Crooked(spoil))
    job = start(None, source=source).submit(request(), nothing)
    with pytest.raises(ComputeLost):
        job.future.result(10)
    wait_until(lambda: source.events == ["lose", "reload"])


def test_an_answer_with_numbers_for_its_box_is_given(start: Start) -> None:
    """What the test above spoils."""
    job = start(Crooked(lambda answers: says())).submit(request(), nothing)
    assert job.future.result(10).output.masks[0].score == 0.5


def test_what_was_prepared_for_the_model_before_is_refused(start: Start) -> None:
    """A restart may bring a model of another size or convention; neighbours get their masks."""
    gate = Gate()
    predictor = FakePredictor(gate.hold, FakeInfo(device="cuda", input_size=INPUT_SIDE))
    worker = start(predictor)
    unknown = replace(request(), convention="heart")  # type: ignore[arg-type]
    sent = [request(), request(side=INPUT_SIDE // 2), unknown, request()]
    jobs = queued_behind(gate, worker, sent)
    gate.opened.set()
    assert is_lung(jobs[0]) and is_lung(jobs[3])
    for job in jobs[1:3]:
        with pytest.raises(ComputeLost):
            job.future.result(10)
    assert predictor.batch_sizes == [1, 2]


def test_a_caller_who_left_is_dropped_before_compute(start: Start) -> None:
    """And the queue forgets the image at once."""
    gate = Gate()
    predictor = FakePredictor(gate.hold)
    worker = start(predictor)
    jobs = queued_behind(gate, worker, [request(), request()])
    worker.withdraw(jobs[0])
    gate.opened.set()
    jobs[1].future.result(10)
    assert predictor.batch_sizes == [1, 1]
    assert jobs[0].future.cancelled()


def test_taking_a_job_is_told_before_compute(start: Start) -> None:
    """The waiting place is free while the model works."""
    gate = Gate()
    worker = start(FakePredictor(gate.hold))
    taken: list[bool] = []
    worker.submit(request(), lambda: taken.append(True))
    assert gate.entered.wait(10)
    assert taken == [True]
    gate.opened.set()


def test_close_answers_everyone(start: Start) -> None:
    """The running one gets its mask, the waiting ones a refusal, later ones too."""
    gate = Gate()
    worker = start(FakePredictor(gate.hold))
    running = worker.submit(request(), nothing)
    assert gate.entered.wait(10)
    waiting = [worker.submit(request(), nothing) for _ in range(6)]
    assert not worker.close(0.01)
    gate.opened.set()
    assert worker.close(10)
    assert running.future.result(10).batch_size == 1
    for job in waiting:
        with pytest.raises(Draining):
            job.future.result(10)
    with pytest.raises(Draining):
        worker.submit(request(), nothing)


def test_no_model_means_refusals_and_not_silence(start: Start) -> None:
    """When loading fails nobody waits for ever."""
    worker = start(None)
    time.sleep(0.05)
    with pytest.raises(Draining):
        worker.submit(request(), nothing).future.result(10)


def test_failures_in_a_row_cause_one_recheck(start: Start) -> None:
    """A success in between starts the count again."""
    bad = [True]

    def before(requests: Sequence[Any]) -> None:
        if bad[0]:
            raise RuntimeError

    source = FakeSource(FakePredictor(before))
    worker = start(None, source=source)
    for is_bad in (True, True, False, True, True):
        bad[0] = is_bad
        job = worker.submit(request(), nothing)
        job.future.exception(10)
    assert source.events == []
    bad[0] = True
    worker.submit(request(), nothing).future.exception(10)
    worker.submit(request(), nothing).future.exception(10)
    worker.close(10)
    assert source.events == ["recheck"]


class Ahead:
    """A model that takes whatever it is handed, and answers when it is told to."""

    is_running = True

    def __init__(self, device: str) -> None:
        self.info = FakeInfo(device=device)
        self.sizes: list[int] = []
        self._reader, self._writer = os.pipe()

    def answer_batch(self, requests: Sequence[Any]) -> Iterator[Any]:
        self.sizes.append(len(requests))
        return self._answers(list(requests))

    def answer_is_there(self, wake: int) -> bool:
        return self._reader in select.select([self._reader, wake], [], [], 10)[0]

    def may_answer(self) -> None:
        os.close(self._writer)

    def _answers(self, requests: list[Any]) -> Iterator[Any]:
        assert select.select([self._reader], [], [], 10)[0]
        for one in requests:
            if one.pixels[0] == 13:
                raise ComputeLost("gone")
            yield replace(output_about(one), together=2)


@pytest.mark.parametrize(
    ("device", "turns", "expected"),
    [("cuda:1", None, 8), ("cpu", None, 2), ("cpu", CpuTurns(1), 1)],
)
def test_a_device_gets_more_while_it_computes(
    start: Start, device: str, turns: CpuTurns | None, expected: int
) -> None:
    """Two batches on a GPU, two X-rays on a CPU; nothing more where other models want a turn."""
    model, calls = Ahead(device), []
    worker = start(model, on_batch=lambda size, seconds: calls.append(size), turns=turns)
    jobs: list[Job] = []
    for number in range(12):
        jobs.append(worker.submit(request(200 if number % 2 else 50), nothing))
        wait_until(lambda: sum(model.sizes) == min(len(jobs), expected))
    model.may_answer()
    assert [is_lung(job) for job in jobs] == [bool(number % 2) for number in range(12)]
    wait_until(lambda: calls == [2] * 6)  # as the model says, not as they were handed over
    assert sum(model.sizes) == 12


def test_a_gpu_that_is_lost_loses_all_that_it_had(start: Start) -> None:
    model = Ahead("cuda")
    source = FakeSource(model)
    worker = start(None, source=source)
    jobs = []
    for level in (200, 13, 200, 200):
        jobs.append(worker.submit(request(level), nothing))
        wait_until(lambda: sum(model.sizes) == len(jobs))
    model.may_answer()
    assert is_lung(jobs[0])
    for job in jobs[1:]:
        with pytest.raises(ComputeLost):
            job.future.result(10)
    wait_until(lambda: source.events == ["lose", "reload"])
    assert is_lung(worker.submit(request(), nothing))


def test_a_gpu_answers_all_that_it_has_before_a_recheck(start: Start) -> None:
    model = Ahead("cuda")
    source = FakeSource(model)
    worker = start(None, source=source, recheck_interval_s=0.3)
    wait_until(lambda: "recheck" in source.events)
    jobs = [worker.submit(request(), nothing)]
    wait_until(lambda: sum(model.sizes) == 1)
    before = len(source.events)
    time.sleep(0.4)
    jobs.append(worker.submit(request(), nothing))
    time.sleep(0.1)
    assert len(source.events) == before
    model.may_answer()
    assert all(is_lung(job) for job in jobs)
    wait_until(lambda: len(source.events) > before)
