"""Threads of the model and image workers: what the allowed CPUs and the memory give."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from service.cpu_allowance import MOST_THREADS, gpus_shown, image_workers, model_threads


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


@pytest.mark.parametrize(("quota", "workers"), [("100000", 2), ("600000", 3)])
def test_half_of_the_allowed_cpus_open_and_render(
    quota: str, workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two at least: a costly upload may hold one of them."""
    file = tmp_path / "cpu.max"
    file.write_text("max 100000")
    absent = tmp_path / "memory.max"
    for cores, wanted in ((1, 2), (2, 2), (4, 2), (8, 4), (64, MOST_THREADS)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, n=cores: set(range(n)))
        assert image_workers(file, absent) == wanted
    file.write_text(f"{quota} 100000")
    assert image_workers(file, absent) == workers


@pytest.mark.parametrize(
    ("limit", "workers"),
    [("max", 8), (str(64 << 30), 8), (str(2 << 30), 2), (str(1 << 30), 1), (str(100 << 20), 1)],
)
def test_memory_limits_the_image_workers_too(
    limit: str, workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    file = tmp_path / "memory.max"
    file.write_text(limit)
    assert image_workers(tmp_path / "cpu.max", file) == workers


def test_a_gpu_leaves_the_image_workers_all_cpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As far as the container's quota and memory go."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    quota, memory = tmp_path / "cpu.max", tmp_path / "memory.max"
    assert image_workers(quota, memory, gpus=1) == 16
    memory.write_text(str(7 << 30))
    assert [image_workers(quota, memory, gpus=count) for count in (0, 1, 2, 4)] == [8, 6, 2, 1]
    quota.write_text("100000 100000")
    assert image_workers(quota, memory, gpus=1) == 2


@pytest.mark.parametrize(
    ("names", "expected"),
    [(("nvidia0",), 1), (("nvidia0", "nvidia12", "null"), 2), (("nvidiactl", "nvidia-uvm"), 0)],
)
def test_gpus_are_known_by_their_devices(
    names: tuple[str, ...], expected: int, tmp_path: Path
) -> None:
    for name in names:
        (tmp_path / name).touch()
    assert gpus_shown(tmp_path) == expected
