"""A worker is limited and confined, as the kernel itself says."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from service.workers.errors import EndReason, TooCostly
from service.workers.limits import WorkerLimits
from service.workers.pool import WorkerPool
from tests.service.workers.worker_pools import MIB, SMALL, in_pool, quick


def status_of(process: int) -> dict[str, str]:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def oom_score(process: int | str) -> int:
    return int(Path(f"/proc/{process}/oom_score_adj").read_text())


def target_of(link: Path) -> str:
    try:
        return os.readlink(link)
    except FileNotFoundError:
        return "closed meanwhile"


def test_the_kernel_confirms_every_limit() -> None:
    async def test(pool: WorkerPool) -> None:
        found = (await quick(pool, "describe_limits")).fields
        warm_bytes = pool.supervisor.template_facts["address_space_bytes"]
        assert pool.supervisor.refused_limits == set()
        status = status_of(found["process"])
        assert status["NoNewPrivs"] == "1"
        assert status["Seccomp"] == "2"
        assert status["Threads"] == "1"
        assert abs(found["address_space"] - warm_bytes - SMALL.memory_bytes) < MIB
        assert found["core"] == 0
        assert found["open_files"] == SMALL.open_files
        assert found["file_size"] == SMALL.file_bytes
        assert oom_score(found["process"]) == min(1000, oom_score("self") + SMALL.oom_score)
        assert found["niceness"] == min(19, os.getpriority(os.PRIO_PROCESS, 0) + SMALL.niceness)
        files = Path(f"/proc/{found['process']}/fd")
        for _ in range(100):  # what came with the task is closed once it is answered
            opened = {each.name: target_of(each) for each in files.iterdir()}
            if len(opened) == 4:
                break
            await asyncio.sleep(0.05)
        assert [opened[name] for name in "012"] == ["/dev/null"] * 3
        assert len(opened) == 4, list(opened.items())  # and the socket to the front
        assert found["ignored"]

    in_pool(test, workers=1)
    with contextlib.ExitStack() as many:  # a busy front gives its children large numbers
        for _ in range(2 * SMALL.open_files):
            many.enter_context(open(os.devnull, "rb"))
        in_pool(test, workers=1)


def test_a_worker_reaches_no_network_no_process_and_no_file(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text("here")

    async def test(pool: WorkerPool) -> None:
        found = (await quick(pool, "attempt", front=os.getpid(), file=str(kept))).fields
        assert all(found.values()), found
        assert {found["socket"], found["fork"], found["exec"]} == {errno.EPERM}
        assert kept.read_text() == "here"

    in_pool(test, workers=1)


def test_a_library_may_still_import_parts_of_itself_late() -> None:
    async def test(pool: WorkerPool) -> None:
        assert (await quick(pool, "import_late")).fields == {"grey": 0.5}

    in_pool(test, workers=1)


def test_limits_that_the_kernel_refuses_are_told_loudly_and_the_worker_serves(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def test(pool: WorkerPool) -> None:
        await quick(pool, "whoami")
        assert pool.supervisor.refused_limits == {"landlock", "seccomp"}
        told = [each for each in caplog.records if "refuses" in each.message]
        assert len(told) == 1

    in_pool(test, workers=2, tasks="tests.service.workers.refusing_kernel")


def test_processor_time_is_counted_for_each_task_and_not_for_the_workers_life() -> None:
    async def test(pool: WorkerPool) -> None:
        for _ in range(4):
            await pool.run("burn_for", {"seconds": 0.2}, cpu_s=0.5, wall_s=60)
        assert not pool.supervisor.ends
        with pytest.raises(TooCostly) as caught:
            await pool.run("burn_for", {"seconds": 5}, cpu_s=0.5, wall_s=60)
        assert caught.value.reason is EndReason.CPU_LIMIT

    in_pool(test, workers=1)


def test_a_need_stated_in_time_replaces_the_first_grant() -> None:
    async def test(pool: WorkerPool) -> None:
        with pytest.raises(TooCostly):  # it states less than it was granted, and uses more
            await pool.run("need", {"needs_s": 0.1, "seconds": 2}, cpu_s=30, wall_s=60)

    in_pool(test, workers=1)


def test_limits_survive_the_way_to_the_template() -> None:
    assert WorkerLimits.from_fields(SMALL.as_fields()) == SMALL


def test_the_backstop_is_set_by_the_clock_that_it_counts_by() -> None:
    code = (
        "import resource, time\n"
        "from service.workers import limits\n"
        "assert abs(limits.processor_ticks_s() - time.process_time()) < 0.5\n"
        "limits.processor_ticks_s = lambda: 100.2  # ahead of the precise clock, as after an hour\n"
        "limits.ProcessorTimer().start(2.5)\n"
        "print(resource.getrlimit(resource.RLIMIT_CPU)[0])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "104\n"
