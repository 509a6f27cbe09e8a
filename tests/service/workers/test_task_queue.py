"""Which task is next: urgency, then age; costly ones get at most half of the workers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest

from service.workers.errors import EndReason, TooCostly
from service.workers.pool import WorkerPool
from service.workers.task_queue import Job, TaskQueue
from tests.service.workers.worker_pools import in_pool, quick, until


def job(name: str, *, is_costly: bool = False, urgency: int = 1) -> Job:
    result: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    return Job(name, {}, b"", (), 1.0, 1.0, 1.0, is_costly, urgency, result)


def names(queue: TaskQueue, costly_running: int = 0) -> list[str]:
    found = []
    while (one := queue.take(costly_running)) is not None:
        found.append(one.task)
    return found


def run(test: Awaitable[None]) -> None:
    async def running() -> None:
        await test

    asyncio.run(running())


def test_older_tasks_go_first_and_urgent_ones_before_them() -> None:
    async def test() -> None:
        queue = TaskQueue(4)
        for name, urgency in (("first", 1), ("second", 1), ("urgent", 0)):
            queue.put(job(name, urgency=urgency))
        assert names(queue) == ["urgent", "first", "second"]

    run(test())


def test_costly_tasks_wait_when_half_of_the_workers_have_one() -> None:
    async def test() -> None:
        queue = TaskQueue(4)
        queue.put(job("costly", is_costly=True))
        queue.put(job("other"))
        assert names(queue, costly_running=2) == ["other"]
        assert names(queue, costly_running=1) == ["costly"]

    run(test())


def test_an_old_costly_task_is_not_passed_by_younger_ones() -> None:
    async def test() -> None:
        queue = TaskQueue(2)
        queue.put(job("costly", is_costly=True))
        queue.put(job("other"))
        assert names(queue) == ["costly", "other"]

    run(test())


def test_a_task_whose_caller_has_left_is_dropped() -> None:
    async def test() -> None:
        queue = TaskQueue(2)
        left = job("left")
        queue.put(left)
        queue.put(job("other"))
        left.result.cancel()
        assert names(queue) == ["other"]
        assert len(queue) == 0

    run(test())


def test_a_task_put_back_is_first_again() -> None:
    async def test() -> None:
        queue = TaskQueue(2)
        queue.put(job("first"))
        queue.put(job("second"))
        first = queue.take(0)
        assert first is not None
        queue.put_back(first)
        assert names(queue) == ["first", "second"]

    run(test())


def test_a_flood_of_costly_tasks_leaves_half_of_the_workers_to_others() -> None:
    async def test(pool: WorkerPool) -> None:
        flood = [
            asyncio.ensure_future(
                pool.run("wait", {"seconds": 600}, cpu_s=5, wall_s=600, is_costly=True)
            )
            for _ in range(10)
        ]
        await until(lambda: pool.busy == 1 and pool.ready == 2)
        for _ in range(20):
            await quick(pool, "whoami")
        assert pool.waiting == 9
        for each in flood:
            each.cancel()
        await asyncio.gather(*flood, return_exceptions=True)

    in_pool(test, workers=2)


def test_a_task_that_asks_for_more_time_runs_again_as_a_costly_one_on_a_worker_of_its_own() -> None:
    async def test(pool: WorkerPool) -> None:
        before = (await quick(pool, "whoami")).fields["process"]
        fields = {"needs_s": 3.0, "seconds": 0.4}
        reply = await pool.run("need", fields, cpu_s=0.2, most_cpu_s=5.0, wall_s=60)
        assert reply.cpu_s >= 0.4
        assert reply.fields["process"] == before
        await until(lambda: pool.supervisor.ends == {EndReason.RETIRED: 1})
        assert (await quick(pool, "whoami")).fields["process"] != before

    in_pool(test, workers=1)


@pytest.mark.parametrize("needs_s", [6.0, 1e9])
def test_a_task_that_asks_for_too_much_time_is_too_costly_at_once(needs_s: float) -> None:
    async def test(pool: WorkerPool) -> None:
        fields = {"needs_s": needs_s, "seconds": 600}
        with pytest.raises(TooCostly) as caught:
            await pool.run("need", fields, cpu_s=0.2, most_cpu_s=5.0, wall_s=60)
        assert caught.value.reason is EndReason.CPU_LIMIT

    in_pool(test, workers=1)
