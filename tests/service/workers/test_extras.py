"""What few tasks need is loaded once, when the first of them comes, and loses nobody anything."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from service.workers import supervisor
from service.workers.errors import EndReason, PoolClosed, TaskFailed, WorkerLost
from service.workers.pool import WorkerPool
from service.workers.reply import Reply
from tests.service.workers.extras_tasks import EXTRA_BYTES
from tests.service.workers.worker_pools import MIB, SMALL, in_pool, quick, until

Test = Callable[[WorkerPool], Awaitable[None]]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    package = tmp_path / "late_parts"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "part.py").write_text("ANSWER = 42\n")
    monkeypatch.setenv("EXTRAS_FOLDER", str(tmp_path))
    return tmp_path


def in_extras_pool(test: Test, workers: int = 2, extras_from_start: bool = False) -> None:
    tasks = "tests.service.workers.extras_tasks"
    in_pool(test, workers, tasks=tasks, extras_from_start=extras_from_start)


def attempts(folder: Path) -> int:
    file = folder / "attempts"
    return len(file.read_text().splitlines()) if file.exists() else 0


async def with_extras(pool: WorkerPool, task: str = "has_extras") -> Reply:
    return await pool.run(task, cpu_s=5, wall_s=60, needs_extras=True)


async def has_extras(pool: WorkerPool) -> bool:
    return bool((await quick(pool, "has_extras")).fields["has_extras"])


def test_nothing_is_loaded_for_tasks_that_do_not_need_it(folder: Path) -> None:
    async def test(pool: WorkerPool) -> None:
        assert not await has_extras(pool)
        assert attempts(folder) == 0

    in_extras_pool(test)


def test_the_first_task_that_needs_them_waits_and_others_go_on_meanwhile(folder: Path) -> None:
    (folder / "hold").touch()

    async def test(pool: WorkerPool) -> None:
        await until(lambda: pool.ready == 2)
        waiting = [asyncio.ensure_future(with_extras(pool)) for _ in range(3)]
        await until(lambda: attempts(folder) == 1)
        for _ in range(5):
            assert not await has_extras(pool)
        assert not any(each.done() for each in waiting)
        (folder / "hold").unlink()
        assert all([(await each).fields["has_extras"] for each in waiting])
        await until(lambda: pool.ready == 2)
        for _ in range(5):
            assert await has_extras(pool)
        assert attempts(folder) == 1
        assert pool.supervisor.ends == {EndReason.RETIRED: 2}

    in_extras_pool(test)


def test_a_worker_that_is_busy_answers_before_it_is_replaced() -> None:
    async def test(pool: WorkerPool) -> None:
        await until(lambda: pool.ready == 1)
        busy = asyncio.ensure_future(quick(pool, "wait", seconds=0.5))
        await until(lambda: pool.busy == 1)
        needing = await with_extras(pool)
        assert needing.fields["has_extras"]
        assert (await busy).fields["process"] != needing.fields["process"]
        assert pool.supervisor.ends == {EndReason.RETIRED: 1}

    in_extras_pool(test, workers=1)


def test_a_worker_that_starts_while_they_are_loaded_holds_them_or_gets_no_task(
    folder: Path,
) -> None:
    (folder / "hold").touch()

    async def test(pool: WorkerPool) -> None:
        await until(lambda: pool.ready == 2)
        pool.prepare_extras()
        await until(lambda: attempts(folder) == 1)
        await quick(pool, "last")  # its place is asked for while the template is busy
        (folder / "hold").unlink()
        for _ in range(20):
            assert (await with_extras(pool)).fields["has_extras"]

    in_extras_pool(test)


def test_limits_start_from_what_a_worker_holds_and_parts_may_be_imported_late() -> None:
    async def test(pool: WorkerPool) -> None:
        await quick(pool, "whoami")
        before = pool.supervisor.template_facts["address_space_bytes"]
        found = (await with_extras(pool, "describe_limits")).fields
        warm_bytes = pool.supervisor.template_facts["address_space_bytes"]
        assert warm_bytes - before >= EXTRA_BYTES
        assert abs(found["address_space"] - warm_bytes - SMALL.memory_bytes) < MIB
        late = await with_extras(pool, "import_part_of_extras")
        assert late.fields == {"answer": 42}

    in_extras_pool(test, workers=1)


def test_without_them_only_the_tasks_that_need_them_fail_and_the_next_tries_again(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "fail").touch()

    async def test(pool: WorkerPool) -> None:
        before = (await quick(pool, "whoami")).fields
        with pytest.raises(TaskFailed) as caught:
            await with_extras(pool)
        assert caught.value.error_type == "LookupError"
        assert caught.value.where[-1].startswith("extras_tasks.py:")
        assert "Doe" not in f"{caught.value!r} {caught.value.where} {caplog.text}"
        assert (await quick(pool, "whoami")).fields == before
        assert not pool.supervisor.ends
        (folder / "fail").unlink()
        assert (await with_extras(pool)).fields["has_extras"]
        assert attempts(folder) == 2

    in_extras_pool(test, workers=1)
    assert [each.levelname for each in caplog.records if "extras" in each.message] == ["ERROR"]


def test_a_template_that_is_killed_while_it_loads_loses_tasks_that_may_be_sent_again(
    folder: Path,
) -> None:
    (folder / "hang").touch()

    async def test(pool: WorkerPool) -> None:
        await quick(pool, "whoami")
        waiting = asyncio.ensure_future(with_extras(pool))
        await until(lambda: attempts(folder) == 1)
        os.kill(pool.supervisor.process_ids[0], signal.SIGKILL)
        with pytest.raises(WorkerLost) as caught:
            await waiting
        assert caught.value.reason is EndReason.TEMPLATE_LOST
        assert not await has_extras(pool)
        assert attempts(folder) == 1  # the new one was not asked: it would hang as well
        (folder / "hang").unlink()
        assert (await with_extras(pool)).fields["has_extras"]

    in_extras_pool(test)


def test_a_template_that_hangs_while_it_loads_is_killed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "hang").touch()

    async def test(pool: WorkerPool) -> None:
        await quick(pool, "whoami")
        with monkeypatch.context() as context:
            context.setattr(supervisor, "WARM_TIMEOUT_S", 0.2)
            pool.prepare_extras()
        with pytest.raises(WorkerLost):
            await with_extras(pool)
        assert not await has_extras(pool)

    in_extras_pool(test)


def test_a_new_template_loads_them_unasked_once_they_were_needed(folder: Path) -> None:
    async def test(pool: WorkerPool) -> None:
        await with_extras(pool)
        os.kill(pool.supervisor.process_ids[0], signal.SIGKILL)
        await until(lambda: pool.supervisor.ends[EndReason.TEMPLATE_LOST] > 0)
        assert await has_extras(pool)
        assert attempts(folder) == 2

    in_extras_pool(test)


def test_they_can_be_held_from_the_start(folder: Path) -> None:
    async def test(pool: WorkerPool) -> None:
        assert await has_extras(pool)
        assert attempts(folder) == 1
        assert not pool.supervisor.ends

    in_extras_pool(test, extras_from_start=True)


def test_who_waits_for_them_is_told_when_the_pool_closes_and_may_leave_before(
    folder: Path,
) -> None:
    (folder / "hold").touch()

    async def test(pool: WorkerPool) -> None:
        leaving, staying = (asyncio.ensure_future(with_extras(pool)) for _ in range(2))
        await until(lambda: attempts(folder) == 1)
        leaving.cancel()
        await asyncio.wait([leaving])
        assert leaving.cancelled()
        assert not staying.done()
        closing = asyncio.ensure_future(pool.close())
        with pytest.raises(PoolClosed):
            await staying
        (folder / "hold").unlink()
        await closing

    in_extras_pool(test)
