"""The cost of image workers: round trip of a task, memory, and time of a replacement.

`python -m benchmarks.service.worker_pool [--count 200] [--workers 2]` starts the service's image
workers without the service, and prints the medians.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence

from benchmarks.processor import processor_name
from benchmarks.service.process_memory import process_tree, pss_bytes
from service.workers.pool import PoolConfig, WorkerPool
from service.workers.shared_memory import Blob

_PICTURE_BYTES = 8 << 20  # 2048 x 2048, 16 bits


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print.

    Args:
        arguments: command-line arguments; those of the process when None.
    """
    parser = argparse.ArgumentParser(prog="worker_pool")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args(arguments)
    found = asyncio.run(_measure(options.workers, options.count))
    print(f"on {processor_name()}, {options.workers} workers, medians of {options.count}\n")
    for name, value in found.items():
        print(f"{name:40s} {value:8.2f}")
    print(json.dumps({name: round(value, 3) for name, value in found.items()}))
    return 0


async def _measure(workers: int, count: int) -> dict[str, float]:
    pool = WorkerPool(PoolConfig("benchmarks.service.pool_tasks"), workers)
    began = time.perf_counter()
    await pool.start()
    while pool.ready < workers:
        await asyncio.sleep(0.001)
    found = {"all workers ready, s": time.perf_counter() - began}
    with Blob.of(bytes(_PICTURE_BYTES)) as picture:
        found["a task without data, ms"] = await _median_ms(pool, "nothing", (), count)
        found["a task that is given 8 MiB, ms"] = await _median_ms(pool, "take", (picture,), count)
        found["a task that gives 8 MiB back, ms"] = await _median_ms(pool, "give", (), count)
    found["a worker is replaced, ms"] = await _replacement_ms(pool, workers, max(count // 10, 3))
    found.update(_memory(""))
    began = time.perf_counter()
    with await pool.run("nothing", cpu_s=5.0, wall_s=60.0, needs_extras=True):
        found["the first answer in DICOM waits, ms"] = 1000 * (time.perf_counter() - began)
    while pool.ready < workers:
        await asyncio.sleep(0.001)
    found.update(_memory(", then"))
    await pool.close()
    return found


def _memory(when: str) -> dict[str, float]:
    template, *processes = process_tree(os.getpid())[1:]
    return {
        f"PSS of the template{when}, MB": pss_bytes(template) / 1e6,
        f"PSS of a worker{when}, MB": statistics.mean(map(pss_bytes, processes)) / 1e6,
    }


async def _median_ms(pool: WorkerPool, task: str, blobs: Sequence[Blob], count: int) -> float:
    taken = []
    for _ in range(count):
        began = time.perf_counter()
        with await pool.run(task, blobs=blobs, cpu_s=5.0, wall_s=60.0):
            taken.append(time.perf_counter() - began)
    return 1000 * statistics.median(taken)


async def _replacement_ms(pool: WorkerPool, workers: int, count: int) -> float:
    taken = []
    for _ in range(count):
        with await pool.run("last", cpu_s=5.0, wall_s=60.0):
            began = time.perf_counter()
        while pool.ready < workers:
            await asyncio.sleep(0.0005)
        taken.append(time.perf_counter() - began)
    return 1000 * statistics.median(taken)


if __name__ == "__main__":
    sys.exit(main())
