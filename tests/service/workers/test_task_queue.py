"""Which task is next: urgency, then turns of the callers; and what is left to others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence

import pytest

from service.caller_turns import SERVICE
from service.workers.errors import EndReason, TooCostly
from service.workers.pool import WorkerPool
from service.workers.task_queue import ABOUT_S, Job, TaskQueue
from tests.service.workers.worker_pools import in_pool, quick, until


def job(name: str, *, is_costly: bool = False, urgency: int = 1, caller: str = "somebody") -> Job:
    result: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    return Job(name, {}, b"", (), 1.0, 1.0, 1.0, is_costly, urgency, caller, result)


def names(queue: TaskQueue, running: Sequence[Job] = ()) -> list[str]:
    found = []
    while (one := queue.take(running)) is not None:
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
        running = [job("costly", is_costly=True) for _ in range(2)]
        assert names(queue, running) == ["other"]
        assert names(queue, running[:1]) == ["costly"]

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
        queue.put(job("another's", caller="another"))
        first = queue.take(())
        assert first is not None
        queue.put_back(first)
        assert names(queue) == ["first", "another's", "second"]

    run(test())


def test_callers_go_in_turn_within_an_urgency() -> None:
    async def test() -> None:
        queue = TaskQueue(4)
        for number in range(4):
            queue.put(job(f"many {number}", caller="many"))
        queue.put(job("few 0", caller="few"))
        queue.put(job("few 1", caller="few"))
        queue.put(job("many's answer", caller="many", urgency=0))
        assert names(queue) == [
            "many's answer",
            *("many 0", "few 0", "many 1", "few 1", "many 2", "many 3"),
        ]

    run(test())


@pytest.mark.parametrize(("workers", "most"), [(1, 1), (2, 1), (3, 2), (4, 3), (8, 6), (16, 12)])
def test_a_caller_leaves_a_quarter_of_the_workers_while_another_one_is_about(
    workers: int, most: int
) -> None:
    async def test() -> None:
        now_s = [100.0]
        queue = TaskQueue(workers, lambda: now_s[0])
        running = [job("running", caller="many") for _ in range(workers)]
        queue.put(job("first", caller="many"))
        assert names(queue, running[: workers - 1]) == ["first"]  # nobody else is there
        queue.put(job("another's", caller="another"))
        assert names(queue, running[:most]) == ["another's"]
        queue.put(job("second", caller="many"))
        queue.put(job("third", caller="many"))
        now_s[0] += ABOUT_S
        assert names(queue, running[:most]) == []
        assert names(queue, running[: most - 1]) == ["second", "third"]
        queue.put(job("fourth", caller="many"))
        now_s[0] += 0.1
        assert names(queue, running[: workers - 1]) == ["fourth"]  # the other one has gone

    run(test())


def test_what_the_service_does_for_itself_is_no_other_caller() -> None:
    async def test() -> None:
        queue = TaskQueue(2)
        queue.put(job("golden image", caller=SERVICE))
        queue.put(job("first", caller="many"))
        assert names(queue, [job("running", caller="many")]) == ["golden image", "first"]
        queue.put(job("another's", caller="another"))
        queue.put(job("golden image", caller=SERVICE))
        running = [job("golden image", caller=SERVICE) for _ in range(2)]
        assert names(queue, running) == ["another's", "golden image"]

    run(test())


def test_a_caller_of_many_tasks_never_has_the_worker_that_another_one_needs() -> None:
    async def test(pool: WorkerPool) -> None:
        await pool.run("whoami", cpu_s=5, wall_s=60, caller="honest")
        held = [
            asyncio.ensure_future(
                pool.run("wait", {"seconds": 600}, cpu_s=5, wall_s=600, caller="hostile")
            )
            for _ in range(8)
        ]
        await until(lambda: pool.busy == 1 and pool.waiting == 7)
        for _ in range(20):
            await pool.run("whoami", cpu_s=5, wall_s=60, caller="honest")
        assert (pool.busy, pool.waiting) == (1, 7)
        for each in held:
            each.cancel()
        await asyncio.gather(*held, return_exceptions=True)

    in_pool(test, workers=2)


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
