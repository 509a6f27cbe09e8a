"""Threads of the model: the allowed CPUs less one, never none."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from service.cpu_allowance import (
    IMAGE_THREAD_NICENESS,
    MOST_THREADS,
    image_threads,
    model_threads,
    yield_to_the_model,
)


@pytest.mark.parametrize(
    ("cores", "quota", "threads"),
    [
        (1, "max 100000", 1),
        (2, "max 100000", 1),
        (4, "max 100000", 3),
        (64, "max 100000", MOST_THREADS),
        (64, "200000 100000", 1),
        (64, "350000 100000", 3),
        (2, "800000 100000", 1),
        (4, "50000 100000", 1),
        (4, "garbage", 3),
        (4, None, 3),
    ],
)
def test_affinity_and_the_container_both_limit(
    cores: int, quota: str | None, threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)), raising=False)
    file = tmp_path / "cpu.max"
    if quota is not None:
        file.write_text(quota)
    assert model_threads(file) == threads


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no priority of their own there")
def test_image_threads_yield_and_the_others_do_not() -> None:
    with ThreadPoolExecutor(1, initializer=yield_to_the_model) as pool:
        inside = pool.submit(os.getpriority, os.PRIO_PROCESS, 0).result()
    assert inside == min(19, os.getpriority(os.PRIO_PROCESS, 0) + IMAGE_THREAD_NICENESS)


NICE_PROCESS = """
import os
from concurrent.futures import ThreadPoolExecutor
from service.cpu_allowance import yield_to_the_model
os.nice(15 - os.nice(0))
if os.geteuid() == 0:
    os.setuid(65534)
with ThreadPoolExecutor(1, initializer=yield_to_the_model) as pool:
    print(pool.submit(os.getpriority, os.PRIO_PROCESS, 0).result())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no priority of their own there")
def test_a_process_that_is_nice_already_and_not_root_has_image_threads_too() -> None:
    """A pool whose threads cannot start would answer 500 to everyone."""
    done = subprocess.run(
        [sys.executable, "-c", NICE_PROCESS], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "19", done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no priority of their own there")
def test_image_threads_work_where_priorities_are_forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "setpriority", refused)
    with ThreadPoolExecutor(1, initializer=yield_to_the_model) as pool:
        assert pool.submit(lambda: "works").result() == "works"


@pytest.mark.parametrize(("quota", "threads"), [("100000", 1), ("50000", 1)])
def test_half_of_the_allowed_cpus_decode_and_draw(
    quota: str, threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "cpu.max"
    file.write_text("max 100000")
    for cores, wanted in ((1, 1), (2, 1), (4, 2), (64, MOST_THREADS)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, n=cores: set(range(n)))
        assert image_threads(file) == wanted
    file.write_text(f"{quota} 100000")
    assert image_threads(file) == threads
