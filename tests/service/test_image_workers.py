"""What the serving process takes of what a worker says, and how each way to fail is answered."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from service.imaging.task_data import ANSWER_TASK, OPEN_TASK
from service.workers.errors import (
    EndReason,
    PoolClosed,
    TaskFailed,
    TooCostly,
    WorkerError,
    WorkerLost,
)
from service.workers.shared_memory import Blob
from service.workers.task import Answer, Refusal, Task
from tests.service.fake_model import assert_nothing_is_held, form, make_app, running
from tests.service.in_process_pool import InProcessPool

pytestmark = pytest.mark.anyio


def pool_of(app: Any) -> InProcessPool:
    pool = app.state.service._pool
    assert isinstance(pool, InProcessPool)
    return pool


@pytest.mark.parametrize("task", [OPEN_TASK, ANSWER_TASK])
@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (TooCostly(EndReason.CPU_LIMIT), 422, "image_too_costly"),
        (WorkerLost(EndReason.KILLED), 503, "worker_lost"),
        (TaskFailed("ValueError", ("f.py:1 f",)), 500, "internal_error"),
        (PoolClosed(), 503, "draining"),
    ],
)
async def test_each_end_of_a_task_has_its_answer(
    task: str, error: WorkerError, status: int, code: str
) -> None:
    """And nothing is held afterwards, no shared memory either."""
    app = make_app()
    async with running(app) as client:
        before = Blob.held_bytes
        pool_of(app).fails_with[task] = error
        answer = await client.post("/segment", **form())
        assert (answer.status_code, answer.json()["code"]) == (status, code)
        assert ("retry-after" in answer.headers) == (status == 503)
        del pool_of(app).fails_with[task]
        assert (await client.post("/segment", **form())).status_code == 200
        assert Blob.held_bytes == before
    assert_nothing_is_held(app)


def said(**changes: Any) -> Callable[[Callable[[Task], Answer]], Callable[[Task], Answer]]:
    """Changes fields of an answer."""

    def changed(real: Callable[[Task], Answer]) -> Callable[[Task], Answer]:
        def task(given: Task) -> Answer:
            answer = real(given)
            return Answer({**answer.fields, **changes}, blobs=answer.blobs)

        return task

    return changed


def short(real: Callable[[Task], Answer]) -> Callable[[Task], Answer]:
    """Gives less shared memory than the fields say."""

    def task(given: Task) -> Answer:
        answer = real(given)
        first, *others = answer.blobs
        return Answer(answer.fields, blobs=[bytes(first)[:-1], *others])

    return task


def refusing(fields: dict[str, Any]) -> Callable[[Any], Callable[[Task], Answer]]:
    def refuse(given: Task) -> Answer:
        raise Refusal(fields)

    return lambda real: refuse


@pytest.mark.parametrize(
    ("task", "spoil"),
    [
        (OPEN_TASK, short),
        (OPEN_TASK, said(width=10**9)),
        (OPEN_TASK, said(height="tall")),
        (OPEN_TASK, said(format="exe")),
        (OPEN_TASK, said(surprise=1)),
        (OPEN_TASK, said(stage_seconds={"decode": -1.0})),
        (OPEN_TASK, refusing({"code": "internal_error", "detail": "no"})),
        (OPEN_TASK, refusing({"code": "invalid_box", "detail": "two\r\nlines"})),
        (OPEN_TASK, refusing({})),
        (ANSWER_TASK, said(media_type="text/html")),
        (ANSWER_TASK, said(headers={"Set-Cookie": "a=b"})),
        (ANSWER_TASK, said(headers={"X-Lungseg-Model": "a\r\nSet-Cookie: b"})),
        (ANSWER_TASK, said(warning_codes=["anything"])),
        (ANSWER_TASK, said(area_ratios=[2.0])),
    ],
)
async def test_nothing_is_taken_of_what_no_worker_of_ours_says(
    task: str, spoil: Callable[[Any], Any]
) -> None:
    """The image made it say so: 422, and no header, media type or label of a stranger's."""
    app = make_app()
    async with running(app) as client:
        before = Blob.held_bytes
        real = pool_of(app).tasks[task]
        pool_of(app).tasks[task] = spoil(real)
        answer = await client.post("/segment", **form())
        assert (answer.status_code, answer.json()["code"]) == (422, "image_too_costly")
        assert "set-cookie" not in answer.headers
        pool_of(app).tasks[task] = real
        assert (await client.post("/segment", **form())).status_code == 200
        assert Blob.held_bytes == before
    assert_nothing_is_held(app)


async def test_many_boxes_on_a_large_image_are_refused_before_its_pixels_are_decoded() -> None:
    """52 kB with 32 boxes were 1.9 GB and 40 s."""
    blank = io.BytesIO()
    Image.fromarray(np.zeros((6000, 6000), np.uint8)).save(blank, "PNG")
    boxes = ["0,0,6000,6000"] * 32
    app = make_app()
    async with running(app) as client:
        files = {"image": ("a.png", blank.getvalue(), "image/png")}
        answer = await client.post("/segment", files=files, data={"bbox": boxes})
        assert (answer.status_code, answer.json()["code"]) == (422, "image_too_costly")
        assert "32 boxes on 36000000 pixels" in answer.json()["detail"]
        few = await client.post("/segment", **form(bbox=["0,0,40,40"] * 32))
        assert few.status_code == 200
