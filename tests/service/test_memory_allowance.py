"""The memory that the documentation states is what the limits allow."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from service.memory_allowance import (
    BYTES_BESIDE_WORKERS,
    BYTES_OF_COSTLY_WORKER,
    BYTES_OF_FURTHER_MODEL,
    BYTES_OF_GPU_PROCESS,
    BYTES_OF_WORKER,
    most_service_bytes,
    workers_bytes,
    workers_within_memory,
)
from service.settings import settings_from
from service.workers.limits import WorkerLimits

PAGE = Path(__file__).parents[2] / "docs" / "operations" / "load.md"


def test_the_bound_of_all_processes_is_the_documented_one() -> None:
    settings = settings_from([], {})
    bytes_ = most_service_bytes(2, settings.queue_limit_bytes, settings.max_upload_bytes)
    stated = re.search(
        r"stay below ([0-9.]+) GB\s+with\s+two\s+image\s+workers", PAGE.read_text("utf-8")
    )
    assert stated is not None
    assert 0.95 * float(stated[1]) < bytes_ / 1e9 <= float(stated[1]) + 0.05


def test_a_worker_may_use_what_the_service_reckons_with() -> None:
    limits = WorkerLimits.for_pictures(settings_from([], {}).max_pixels)
    assert BYTES_OF_WORKER < BYTES_OF_COSTLY_WORKER <= limits.memory_bytes


@pytest.mark.parametrize("workers", [1, 2, 5, 8])
def test_a_container_holds_the_workers_that_it_is_given(workers: int) -> None:
    limit_bytes = BYTES_BESIDE_WORKERS + workers_bytes(workers)
    assert workers_within_memory(8, limit_bytes) == workers
    assert workers_within_memory(8, limit_bytes - 1) == max(1, workers - 1)


@pytest.mark.parametrize(
    ("gpus", "each_bytes"), [(0, BYTES_OF_FURTHER_MODEL), (2, 2 * BYTES_OF_GPU_PROCESS)]
)
def test_further_models_leave_less_to_the_workers(gpus: int, each_bytes: int) -> None:
    first_bytes = BYTES_BESIDE_WORKERS + gpus * BYTES_OF_GPU_PROCESS
    limit_bytes = first_bytes + 2 * each_bytes + workers_bytes(4)
    assert workers_within_memory(8, limit_bytes, gpus, models=3) == 4
    assert workers_within_memory(8, limit_bytes - 1, gpus, models=3) == 3
