"""Files that ask for much are read within the limits of a worker, or refused for what they are."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from service.workers.costs import first_grant_s, most_opening_budget_s
from service.workers.errors import EndReason, TaskRefused, TooCostly
from service.workers.limits import WorkerLimits
from service.workers.pool import WorkerPool
from service.workers.shared_memory import Blob
from tests.service.costly_files import COSTLY, READ, costly_files
from tests.service.hostile_files import HostileFile
from tests.service.workers.opening_tasks import MAX_PIXELS
from tests.service.workers.worker_pools import in_pool

DEAR_TO_MAKE = ("jpeg_2000.dcm", "jpeg_ls.dcm")
LIMITS = WorkerLimits.for_pictures(MAX_PIXELS)
MAKERS = {
    name: pytest.param(make, id=name, marks=[pytest.mark.slow] if name in DEAR_TO_MAKE else [])
    for name, make in costly_files().items()
}


@pytest.mark.parametrize("make", MAKERS.values())
def test_a_costly_file_is_bounded_and_gets_its_documented_answer(
    make: Callable[[], HostileFile],
) -> None:
    file = make()
    size = len(file.data)

    async def test(pool: WorkerPool) -> str:
        with Blob.of(file.data) as blob:
            try:
                reply = await pool.run(
                    "read",
                    blobs=[blob],
                    cpu_s=first_grant_s(size),
                    most_cpu_s=most_opening_budget_s(MAX_PIXELS, size),
                    wall_s=600,
                )
            except TaskRefused as refused:
                return str(refused.fields["code"])
            except TooCostly as costly:
                assert costly.reason is EndReason.CPU_LIMIT
                return "image_too_costly"
            with reply:
                assert reply.blobs[0].size_bytes >= reply.fields["pixels"]
                return "read"

    async def watched(pool: WorkerPool) -> tuple[str, set[EndReason]]:
        return await test(pool), set(pool.supervisor.ends)

    outcome, ends = in_pool(
        watched, workers=1, limits=LIMITS, tasks="tests.service.workers.opening_tasks"
    )
    is_read_where_fast = file.codes in (READ, COSTLY)  # a fast processor keeps the budget
    assert outcome in file.codes | ({"read"} if is_read_where_fast else set())
    assert ends <= {EndReason.RETIRED, EndReason.CPU_LIMIT}
    assert Blob.held_bytes == 0
