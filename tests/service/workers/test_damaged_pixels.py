"""A worker that met damaged pixels is replaced; one that refused a file for its header is not."""

from __future__ import annotations

import pytest
from PIL import Image

from service.imaging.segment_request import AnswerKind, SegmentRequest
from service.imaging.task_data import (
    OPEN_ORDER,
    OPEN_TASK,
    PREVIEW_ORDER,
    PREVIEW_TASK,
    OpenOrder,
    PreviewOrder,
    as_json,
)
from service.workers.errors import EndReason, TaskRefused
from service.workers.limits import WorkerLimits
from service.workers.pool import WorkerPool
from service.workers.shared_memory import Blob
from tests.raster_files import encoded, ramp
from tests.service.workers.worker_pools import MIB, in_pool, until

ASKED = SegmentRequest((), "lung_field", 0.5, True, AnswerKind.JSON)
ORDERS = {
    OPEN_TASK: as_json(OPEN_ORDER, OpenOrder(ASKED, 256, 1_000_000, 0.0)),
    PREVIEW_TASK: as_json(PREVIEW_ORDER, PreviewOrder(1_000_000)),
}
JPEG = encoded(Image.fromarray(ramp(64, 64)), "JPEG")
CUT = JPEG[: len(JPEG) * 3 // 4]
LIMITS = WorkerLimits(memory_bytes=512 * MIB)


@pytest.mark.parametrize("task", ORDERS)
@pytest.mark.parametrize(("file", "ends"), [(CUT, 1), (b"GIF89a", 0), (JPEG[:20], 0)])
def test_only_damaged_pixels_cost_a_worker(task: str, file: bytes, ends: int) -> None:
    async def test(pool: WorkerPool) -> None:
        with Blob.of(file) as blob, pytest.raises(TaskRefused):
            await pool.run(task, ORDERS[task], blobs=[blob], cpu_s=5, wall_s=60)
        await until(lambda: pool.supervisor.ends.total() == ends and pool.ready == 1)
        assert set(pool.supervisor.ends) <= {EndReason.RETIRED}
        with Blob.of(JPEG) as blob:
            (await pool.run(task, ORDERS[task], blobs=[blob], cpu_s=5, wall_s=60)).close()
        assert pool.supervisor.ends.total() == ends

    in_pool(test, workers=1, limits=LIMITS, tasks="service.imaging.worker_tasks")
