"""A worker pool for the length of one test."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from service.workers.limits import WorkerLimits
from service.workers.pool import PoolConfig, WorkerPool
from service.workers.reply import Reply

Result = TypeVar("Result")
MIB = 1 << 20
SMALL = WorkerLimits(memory_bytes=256 * MIB, file_bytes=32 * MIB)


def in_pool(
    test: Callable[[WorkerPool], Awaitable[Result]],
    workers: int = 2,
    limits: WorkerLimits = SMALL,
    tasks: str = "tests.service.workers.worker_tasks",
    extras_from_start: bool = False,
) -> Result:
    """Run a test's coroutine beside a pool of its own."""

    async def run() -> Result:
        config = PoolConfig(tasks, limits, extras_from_start=extras_from_start)
        pool = WorkerPool(config, workers)
        await pool.start()
        try:
            return await test(pool)
        finally:
            await pool.close()

    return asyncio.run(run())


async def quick(pool: WorkerPool, task: str, **fields: Any) -> Reply:
    """Run a task that needs next to nothing."""
    return await pool.run(task, fields, cpu_s=5, wall_s=60)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that has to come; for ever, the test's own limit ends it."""
    while not condition():
        await asyncio.sleep(0.002)
