"""A worker that native code was made to take over: what it sends ends it, and nothing else."""

from __future__ import annotations

import json
import os

import pytest

from service.workers.errors import EndReason, TooCostly, WorkerLost
from service.workers.framing import HEADER, MAGIC, MOST_BODY_BYTES, MOST_JSON_BYTES, Kind
from service.workers.pool import WorkerPool
from service.workers.shared_memory import Blob
from tests.service.workers.worker_pools import in_pool, quick, until


def frame(
    kind: int = Kind.DONE, text: bytes = b"{}", body: bytes = b"", descriptors: int = 0
) -> bytes:
    return HEADER.pack(MAGIC, kind, descriptors, len(text), len(body)) + text + body


def answer(**changes: object) -> bytes:
    fields = {"fields": {}, "blob_bytes": [], "cpu_used_s": 0.0, "wall_s": 0.0, **changes}
    return frame(text=json.dumps(fields).encode())


GARBAGE = {
    "random bytes": b"\x80\x04\x95" * 100,
    "a pickle": b"\x80\x04c\nos\nsystem\n(S'true'\ntR.",
    "too long JSON": HEADER.pack(MAGIC, Kind.DONE, 0, MOST_JSON_BYTES + 1, 0),
    "too long body": HEADER.pack(MAGIC, Kind.DONE, 0, 2, MOST_BODY_BYTES + 1),
    "largest lengths": HEADER.pack(MAGIC, Kind.DONE, 255, 2**32 - 1, 2**32 - 1),
    "an unknown kind": frame(kind=99),
    "a kind of the front": frame(kind=Kind.FORK),
    "ready once more": frame(kind=Kind.READY),
    "no JSON": frame(text=b"{"),
    "a list": frame(text=b"[]"),
    "nested lists": frame(text=b"[" * 100_000),
    "not a number": frame(text=b'{"cpu_used_s": NaN}'),
    "a number of many digits": frame(text=b'{"a": ' + b"9" * 10_000 + b"}"),
    "no UTF-8": frame(text=b'{"a": "\xff\xfe"}'),
    "no fields": frame(),
    "blobs that did not come": answer(blob_bytes=[4096]),
    "descriptors that did not come": frame(descriptors=2),
    "time as text": answer(wall_s="1"),
    "infinite time": frame(text=answer().partition(b"{")[1] + b'"fields":{},"cpu_used_s":1e999}'),
    "a refusal without words": frame(kind=Kind.REFUSED),
    "a failure without a place": frame(kind=Kind.FAILED),
    "a need without a number": frame(kind=Kind.MORE),
}


@pytest.mark.parametrize("name", GARBAGE)
def test_what_is_no_frame_ends_the_worker_and_its_task(name: str) -> None:
    async def test(pool: WorkerPool) -> None:
        with pytest.raises(TooCostly) as caught:
            await pool.run("send_raw", body=GARBAGE[name], cpu_s=5, wall_s=60)
        assert caught.value.reason is EndReason.GARBLED
        await until(lambda: pool.supervisor.ends == {EndReason.GARBLED: 1} and pool.ready == 1)
        await quick(pool, "whoami")

    in_pool(test, workers=1)


@pytest.mark.parametrize(
    "task", ["send_unsealed", "send_shrunken", "send_pipe", "send_many_descriptors", "flood"]
)
def test_shared_memory_that_is_not_what_it_should_be_is_refused_and_closed(task: str) -> None:
    async def test(pool: WorkerPool) -> None:
        await until(lambda: pool.ready == 1)
        open_before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(TooCostly) as caught:
            await quick(pool, task)
        assert caught.value.reason is EndReason.GARBLED
        await until(lambda: pool.ready == 1)
        assert len(os.listdir("/proc/self/fd")) == open_before
        assert Blob.held_bytes == 0
        await quick(pool, "whoami")

    in_pool(test, workers=1)


def test_an_answer_cut_short_waits_for_the_wall_clock_and_no_longer() -> None:
    async def test(pool: WorkerPool) -> None:
        with pytest.raises(WorkerLost) as caught:
            await pool.run("send_raw", body=answer()[:-1], cpu_s=5, wall_s=0.3)
        assert caught.value.reason is EndReason.WALL_CLOCK

    in_pool(test, workers=1)
