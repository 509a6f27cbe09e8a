"""Every way in which a worker ends: the reason is exact, its caller is told, neighbours are not."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from service.workers import supervisor
from service.workers.errors import EndReason, TaskFailed, TaskRefused, TooCostly, WorkerLost
from service.workers.limits import WorkerLimits
from service.workers.pool import WorkerPool
from tests.service.workers.worker_pools import MIB, in_pool, quick, until


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        ("burn", EndReason.CPU_LIMIT),
        ("burn_native", EndReason.CPU_LIMIT),
        ("segfault", EndReason.CRASH),
        ("abort", EndReason.CRASH),
        ("bus_error", EndReason.CRASH),
        ("leave", EndReason.CRASH),
    ],
)
def test_a_task_that_ends_its_worker_is_too_costly_and_its_neighbour_gets_its_answer(
    task: str, reason: EndReason
) -> None:
    async def test(pool: WorkerPool) -> None:
        neighbour = asyncio.ensure_future(quick(pool, "wait", seconds=0.4))
        with pytest.raises(TooCostly) as caught:
            await pool.run(task, cpu_s=0.1, wall_s=60)
        assert caught.value.reason is reason
        assert "process" in (await neighbour).fields
        assert pool.supervisor.ends == {reason: 1}
        await until(lambda: pool.ready == 2)
        await quick(pool, "whoami")

    in_pool(test)


def test_a_task_that_takes_all_memory_is_too_costly_and_its_worker_is_replaced() -> None:
    async def test(pool: WorkerPool) -> None:
        before = (await quick(pool, "whoami")).fields["process"]
        with pytest.raises(TooCostly) as caught:
            await quick(pool, "take_memory")
        assert caught.value.reason is EndReason.MEMORY_LIMIT
        await until(lambda: pool.supervisor.ends[EndReason.MEMORY_LIMIT] == 1 and pool.ready == 1)
        assert (await quick(pool, "whoami")).fields["process"] != before

    in_pool(test, workers=1)


def test_shared_memory_beyond_the_limit_ends_the_worker_by_its_memory_limit() -> None:
    async def test(pool: WorkerPool) -> None:
        with pytest.raises(TooCostly) as caught:
            await quick(pool, "take_shared_memory", size_bytes=33 * MIB)
        assert caught.value.reason is EndReason.MEMORY_LIMIT

    in_pool(test, workers=1)


def test_a_wall_clock_that_runs_out_loses_the_worker_and_may_be_retried() -> None:
    async def test(pool: WorkerPool) -> None:
        with pytest.raises(WorkerLost) as caught:
            await pool.run("wait", {"seconds": 600}, cpu_s=5, wall_s=0.2)
        assert caught.value.reason is EndReason.WALL_CLOCK
        await until(lambda: pool.supervisor.ends == {EndReason.WALL_CLOCK: 1} and pool.ready == 1)
        await quick(pool, "whoami")

    in_pool(test, workers=1)


@pytest.mark.parametrize("name", ["SIGKILL", "SIGUSR1"])
def test_a_signal_from_outside_loses_only_the_task_of_that_worker(name: str) -> None:
    async def test(pool: WorkerPool) -> None:
        victim = asyncio.ensure_future(quick(pool, "wait", seconds=600))
        await until(lambda: pool.busy == 1)
        busy = next(w for w in pool.supervisor.workers if w.job is not None)
        neighbour = asyncio.ensure_future(quick(pool, "wait", seconds=0.3))
        await until(lambda: pool.busy == 2 and busy.process is not None)
        os.kill(busy.process or 0, getattr(signal, name))
        with pytest.raises(WorkerLost) as caught:
            await victim
        assert caught.value.reason is EndReason.KILLED
        assert "process" in (await neighbour).fields

    in_pool(test)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_signals_meant_for_the_front_end_neither_template_nor_worker(name: str) -> None:
    async def test(pool: WorkerPool) -> None:
        before = (await quick(pool, "whoami")).fields
        for process in pool.supervisor.process_ids:
            os.kill(process, getattr(signal, name))
        assert (await quick(pool, "whoami")).fields == before
        assert not pool.supervisor.ends

    in_pool(test, workers=1)


def test_a_caller_who_leaves_ends_the_worker_in_the_middle_of_its_task() -> None:
    async def test(pool: WorkerPool) -> None:
        leaving = asyncio.ensure_future(quick(pool, "wait", seconds=600))
        await until(lambda: pool.busy == 1)
        leaving.cancel()
        await until(lambda: pool.supervisor.ends == {EndReason.CANCELLED: 1} and pool.ready == 1)
        await quick(pool, "whoami")

    in_pool(test, workers=1)


def test_a_caller_who_leaves_while_waiting_costs_no_worker() -> None:
    async def test(pool: WorkerPool) -> None:
        first = asyncio.ensure_future(quick(pool, "wait", seconds=0.2))
        await until(lambda: pool.busy == 1)
        second = asyncio.ensure_future(quick(pool, "whoami"))
        await asyncio.sleep(0)
        assert pool.waiting == 1
        second.cancel()
        await first
        assert pool.waiting == 0
        assert not pool.supervisor.ends

    in_pool(test, workers=1)


def test_a_refusal_keeps_the_worker_and_carries_the_words_of_the_task() -> None:
    async def test(pool: WorkerPool) -> None:
        before = (await quick(pool, "whoami")).fields
        with pytest.raises(TaskRefused) as caught:
            await quick(pool, "refuse")
        assert caught.value.fields == {"code": "undecodable_image"}
        assert (await quick(pool, "whoami")).fields == before

    in_pool(test, workers=1)


def test_an_exception_is_told_without_its_words_and_the_worker_is_replaced() -> None:
    async def test(pool: WorkerPool) -> None:
        before = (await quick(pool, "whoami")).fields
        with pytest.raises(TaskFailed) as caught:
            await quick(pool, "fail")
        assert caught.value.error_type == "KeyError"
        assert caught.value.where[-1].startswith("worker_tasks.py:")
        assert "Doe" not in f"{caught.value!r} {caught.value.where}"
        assert (await quick(pool, "whoami")).fields != before

    in_pool(test, workers=1)


def test_a_worker_is_replaced_after_its_last_task_and_after_the_number_of_tasks_it_may_do() -> None:
    async def test(pool: WorkerPool) -> None:
        processes = [(await quick(pool, "whoami")).fields["process"] for _ in range(5)]
        assert len(set(processes)) == 3
        last = (await quick(pool, "last")).fields["process"]
        assert (await quick(pool, "whoami")).fields["process"] != last

    in_pool(test, workers=1, limits=WorkerLimits(tasks=2))


def test_nothing_is_kept_between_two_tasks() -> None:
    async def test(pool: WorkerPool) -> None:
        found = [(await quick(pool, "keep")).fields for _ in range(3)]
        assert [each["is_there"] for each in found] == [False] * 3
        assert len({each["open_files"] for each in found}) == 1

    in_pool(test, workers=1)


def test_a_worker_without_tasks_gives_free_memory_back() -> None:
    async def test(pool: WorkerPool) -> None:
        process = (await quick(pool, "leave_free_memory")).fields["process"]

        def resident_mib() -> int:
            pages = Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1]
            return int(pages) * os.sysconf("SC_PAGE_SIZE") // MIB

        full = resident_mib()
        await until(lambda: resident_mib() < full - 20)
        await quick(pool, "whoami")
        assert not pool.supervisor.ends

    in_pool(test, workers=1)


def test_a_template_that_is_killed_takes_its_workers_along_and_is_started_again() -> None:
    async def test(pool: WorkerPool) -> None:
        victim = asyncio.ensure_future(quick(pool, "wait", seconds=600))
        await until(lambda: pool.busy == 1)
        template, *workers = pool.supervisor.process_ids
        os.kill(template, signal.SIGKILL)
        with pytest.raises(WorkerLost) as caught:
            await victim
        assert caught.value.reason is EndReason.TEMPLATE_LOST
        await quick(pool, "whoami")
        await until(lambda: not any(os.path.exists(f"/proc/{each}") for each in workers))

    in_pool(test)


def test_a_template_that_hangs_is_killed_and_started_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "END_TIMEOUT_S", 0.3)

    async def test(pool: WorkerPool) -> None:
        await quick(pool, "whoami")
        template = pool.supervisor.process_ids[0]
        os.kill(template, signal.SIGSTOP)  # it kills nobody any more
        with pytest.raises(WorkerLost) as caught:
            await pool.run("wait", {"seconds": 600}, cpu_s=5, wall_s=0.1)
        assert caught.value.reason is EndReason.WALL_CLOCK  # the caller does not wait for it
        await until(lambda: pool.supervisor.ends[EndReason.TEMPLATE_LOST] > 0)
        await quick(pool, "whoami")
        assert pool.supervisor.process_ids[0] != template

    in_pool(test, workers=1)
