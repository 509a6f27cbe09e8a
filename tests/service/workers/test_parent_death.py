"""The children end with their parent, however it ends, whatever thread asked for them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from service.child_process import start_child

FRONT = """
import asyncio, sys
from tests.service.workers.worker_pools import quick
from service.workers.pool import PoolConfig, WorkerPool

async def main():
    pool = WorkerPool(PoolConfig("tests.service.workers.worker_tasks"), workers=2)
    await pool.start()
    await quick(pool, "whoami")
    while pool.ready < 2:
        await asyncio.sleep(0.01)
    print(*pool.supervisor.process_ids, flush=True)
    await pool.run(sys.argv[1], {"seconds": 600}, cpu_s=600, wall_s=600)

asyncio.run(main())
"""


def is_running(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_until_ended(processes: list[int], most_s: float = 60.0) -> None:
    until_s = time.monotonic() + most_s
    while any(is_running(each) for each in processes):
        assert time.monotonic() < until_s, "a child outlived its parent"
        time.sleep(0.01)


@pytest.mark.parametrize("task", ["wait", "burn_native"])
def test_template_and_workers_end_when_the_front_is_killed(task: str) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", FRONT, task], stdout=subprocess.PIPE, env=environment
    ) as front:
        assert front.stdout is not None
        processes = [int(each) for each in front.stdout.readline().split()]
        assert len(processes) == 3
        assert all(is_running(each) for each in processes)
        front.send_signal(signal.SIGKILL)
        wait_until_ended(processes)


def test_a_child_lives_on_when_the_thread_that_asked_for_it_ends() -> None:
    started = []
    asking = threading.Thread(
        target=lambda: started.append(start_child("tests.service.workers.sleeping_child"))
    )
    asking.start()
    asking.join()
    connection, process = started[0]
    with connection:
        assert connection.recv(5) == b"ready"  # it has asked for the signal by now
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
        process.kill()
        process.wait()


def test_a_child_whose_parent_has_ended_before_it_asked_does_not_go_on() -> None:
    script = "from service.child_process import die_with_parent; die_with_parent(2**22 + 1)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True)
    assert ended.returncode == 1
    assert b"ParentGoneError" in ended.stderr
