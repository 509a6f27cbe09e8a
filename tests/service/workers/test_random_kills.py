"""Workers are killed at random while tasks run: answers stay right, and only theirs are lost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal

from service.workers.errors import EndReason, WorkerLost
from service.workers.pool import WorkerPool
from service.workers.shared_memory import Blob
from tests.service.workers.worker_pools import in_pool, until

TASKS = 200
CALLERS = 16
SIZE_BYTES = 300_000


def content(number: int) -> bytes:
    return random.Random(number).randbytes(SIZE_BYTES)


async def ask(pool: WorkerPool, number: int) -> bytes:
    with Blob.of(content(number)) as blob:
        reply = await pool.run("echo", {"number": number}, blobs=[blob], cpu_s=20, wall_s=120)
    with reply:
        assert reply.fields == {"number": number}
        return reply.blobs[0].read()


def test_answers_stay_right_while_workers_are_killed_at_random() -> None:
    async def test(pool: WorkerPool) -> None:
        numbers, lost, answers = list(range(TASKS)), [], {}
        rng = random.Random(20)

        async def call() -> None:
            while numbers:
                number = numbers.pop()
                try:
                    answers[number] = await ask(pool, number)
                except WorkerLost as error:
                    assert error.reason is EndReason.KILLED
                    lost.append(number)

        async def kill() -> int:
            killed = 0
            while numbers:
                await asyncio.sleep(rng.uniform(0.0, 0.1))
                _, *workers = pool.supervisor.process_ids
                with contextlib.suppress(IndexError, ProcessLookupError):
                    os.kill(rng.choice(workers), signal.SIGKILL)
                    killed += 1
            return killed

        await until(lambda: pool.ready == 3)
        killing = asyncio.ensure_future(kill())
        await asyncio.gather(*(call() for _ in range(CALLERS)))
        assert await killing >= 1
        assert sorted([*answers, *lost]) == list(range(TASKS))
        for number, answer in answers.items():
            assert answer == content(number)[::-1]
        assert len(lost) <= sum(pool.supervisor.ends.values())
        assert set(pool.supervisor.ends) <= {EndReason.KILLED, EndReason.NOT_STARTED}
        for number in lost:  # they are retryable
            assert await ask(pool, number) == content(number)[::-1]
        assert Blob.held_bytes == 0

    in_pool(test, workers=3)
