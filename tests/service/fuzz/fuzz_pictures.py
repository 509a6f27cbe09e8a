"""Sends damaged files of every format through real image workers, and watches what they do.

`python -m tests.service.fuzz.fuzz_pictures --minutes 60 [--seed 7] [--keep FOLDER]` goes on as long
as asked; the tests run a bounded number. A file may be read or refused by a documented code. Its
worker may be ended by a limit or a crash: that is what workers are for, and it is reported. What
must never happen: an exception that no function foresees, a worker lost, memory left in the front.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from service.workers.errors import TaskFailed, TaskRefused, TooCostly, WorkerLost
from service.workers.limits import WorkerLimits
from service.workers.pool import PoolConfig, WorkerPool
from service.workers.shared_memory import Blob
from tests.service.fuzz.fuzz_seeds import seeds
from tests.service.fuzz.mutations import mutated

CPU_S = 2.0
"""A hundred times what the largest mutant that is an X-ray takes."""
LIMITS = WorkerLimits(memory_bytes=512 << 20, file_bytes=64 << 20, tasks=200)
DOCUMENTED = frozenset(
    {
        "undecodable_image",
        "unsupported_media_type",
        "unsupported_transfer_syntax",
        "too_many_pixels",
        "unsuitable_shape",
    }
)


@dataclass
class Findings:
    """What came of the mutants.

    Attributes:
        outcomes: how many ended how.
        faults: those that must not be; what happened, by seed and number.
        ended: those that ended their worker, likewise.
        slowest_cpu_s: most processor time of one that was answered, seconds.
        most_resident_bytes: largest memory of a worker that was replaced on the way.
        held_bytes: shared memory left in the front.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    slowest_cpu_s: float = 0.0
    most_resident_bytes: int = 0
    held_bytes: int = 0


class Fuzzer:
    """A run over mutants."""

    def __init__(self, seed: int, keep: Path | None = None, workers: int = 2) -> None:
        """Take the seed of the run, and a folder for mutants that end workers."""
        self.findings = Findings()
        self._seed = seed
        self._keep = keep
        self._workers = workers
        honest = seeds()
        self._names, self._files = list(honest), list(honest.values())

    async def run(self, most_mutants: int, until_s: float = float("inf")) -> Findings:
        """Try mutants until either bound is met."""
        pool = WorkerPool(PoolConfig("tests.service.fuzz.fuzz_tasks", LIMITS), self._workers)
        await pool.start()
        numbers = iter(range(most_mutants))

        async def one_after_another() -> None:
            for number in numbers:
                if time.monotonic() > until_s:
                    return
                await self._try(pool, number)

        try:
            await asyncio.gather(*(one_after_another() for _ in range(2 * self._workers)))
        finally:
            self.findings.most_resident_bytes = pool.supervisor.most_resident_bytes
            await pool.close()
        self.findings.held_bytes = Blob.held_bytes
        return self.findings

    async def _try(self, pool: WorkerPool, number: int) -> None:
        index, data = mutated(self._files, self._seed, number)
        name = f"{self._seed}:{number} of {self._names[index]}"
        with Blob.of(data) as file:
            try:
                with await pool.run("read", blobs=[file], cpu_s=CPU_S, wall_s=300) as reply:
                    outcome = "read"
                    self._note_cpu(reply.cpu_s)
            except TaskRefused as refused:
                outcome = str(refused.fields.get("code"))
                if outcome not in DOCUMENTED:
                    self.findings.faults.append(f"{name}: {outcome}")
            except TooCostly as costly:
                outcome = str(costly.reason)
                self.findings.ended.append(f"{name}: {outcome}")
                self._keep_file(number, index, data)
            except TaskFailed as failed:
                outcome = failed.error_type
                self.findings.faults.append(f"{name}: {outcome} at {failed.where}")
                self._keep_file(number, index, data)
            except WorkerLost as lost:
                outcome = str(lost.reason)
                self.findings.faults.append(f"{name}: {outcome}")
        self.findings.outcomes[outcome] += 1

    def _note_cpu(self, cpu_s: float) -> None:
        self.findings.slowest_cpu_s = max(self.findings.slowest_cpu_s, cpu_s)

    def _keep_file(self, number: int, index: int, data: bytes) -> None:
        if self._keep is not None:
            self._keep.mkdir(parents=True, exist_ok=True)
            (self._keep / f"{self._seed}-{number}-{self._names[index]}").write_bytes(data)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as long as asked; 1 when something happened that must not."""
    parser = argparse.ArgumentParser(prog="fuzz_pictures")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3), "big"))
    parser.add_argument("--keep", type=Path, help="folder for files that end workers")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args(arguments)
    fuzzer = Fuzzer(options.seed, options.keep, options.workers)
    until_s = time.monotonic() + 60 * options.minutes
    found = asyncio.run(fuzzer.run(sys.maxsize, until_s))
    print(f"seed {options.seed}: {sum(found.outcomes.values())} mutants", dict(found.outcomes))
    print(f"slowest answered: {found.slowest_cpu_s:.3f} s")
    print(f"most memory of a worker: {found.most_resident_bytes / 2**20:.0f} MiB")
    for line in (*found.ended, *found.faults):
        print(line)
    return 1 if found.faults or found.held_bytes else 0


if __name__ == "__main__":
    sys.exit(main())
