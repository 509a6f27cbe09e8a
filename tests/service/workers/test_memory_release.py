"""Large shared memory is freed beside the event loop, small memory at once."""

from __future__ import annotations

import os
import threading
import time

import pytest

from service.workers import memory_release
from service.workers.memory_release import LARGE_BYTES, MemoryRelease
from service.workers.shared_memory import Blob, BlobWriter


@pytest.fixture
def closed_in(monkeypatch: pytest.MonkeyPatch) -> dict[int, str]:
    """The thread in which each descriptor was closed."""
    found: dict[int, str] = {}
    close = os.close

    def noted(descriptor: int) -> None:
        found[descriptor] = threading.current_thread().name
        close(descriptor)

    monkeypatch.setattr(memory_release, "_release", MemoryRelease())
    monkeypatch.setattr(os, "close", noted)
    return found


def thread_of(closed_in: dict[int, str], descriptor: int) -> str:
    stop_by = time.monotonic() + 10
    while descriptor not in closed_in and time.monotonic() < stop_by:
        time.sleep(0.01)
    return closed_in[descriptor]


def test_a_large_blob_is_freed_in_another_thread(closed_in: dict[int, str]) -> None:
    held = Blob.held_bytes
    blob = Blob.of(bytes(LARGE_BYTES))
    descriptor = blob.fileno()
    blob.close()
    blob.close()
    assert Blob.held_bytes == held
    assert thread_of(closed_in, descriptor) == "memory-release"
    with pytest.raises(OSError):
        os.fstat(descriptor)


def test_an_upload_that_is_given_up_is_freed_there_too(closed_in: dict[int, str]) -> None:
    writer = BlobWriter()
    writer.write(bytes(LARGE_BYTES))
    descriptor = writer._descriptor
    writer.close()
    assert thread_of(closed_in, descriptor) == "memory-release"


def test_small_memory_and_that_of_workers_is_freed_at_once(
    closed_in: dict[int, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed_at_once(size_bytes: int) -> bool:
        blob = Blob.of(bytes(size_bytes))
        descriptor = blob.fileno()
        blob.close()
        return closed_in.get(descriptor) == threading.current_thread().name

    assert closed_at_once(LARGE_BYTES - 1)
    monkeypatch.setattr(memory_release, "_release", None)  # as in a worker, which has no loop
    assert closed_at_once(LARGE_BYTES)
