"""Threads of the model and image workers: what the allowed CPUs and the memory give."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from service.container_limits import ContainerLimits
from service.cpu_allowance import (
    MOST_FRONTS,
    MOST_THREADS,
    front_processes,
    gpus_shown,
    image_workers,
    model_threads,
)
from service.pipeline import image_workers as image_workers_module
from service.pipeline.image_workers import gpus_of
from service.settings import Settings


@pytest.mark.parametrize(
    ("cores", "quota", "threads"),
    [
        (1, None, 1),
        (2, None, 1),
        (4, None, 3),
        (64, None, MOST_THREADS),
        (64, 2.0, 1),
        (64, 3.5, 3),
        (2, 8.0, 1),
        (4, 0.5, 1),
    ],
)
def test_affinity_and_the_container_both_limit(
    cores: int, quota: float | None, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)), raising=False)
    assert model_threads(ContainerLimits(cpus=quota)) == threads


@pytest.mark.parametrize(("quota", "workers"), [(1.0, 2), (6.0, 3)])
def test_half_of_the_allowed_cpus_open_and_render(
    quota: float, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two at least: a costly upload may hold one of them."""
    for cores, wanted in ((1, 2), (2, 2), (4, 2), (8, 4), (64, MOST_THREADS)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, n=cores: set(range(n)))
        assert image_workers(ContainerLimits()) == wanted
    assert image_workers(ContainerLimits(cpus=quota)) == workers


@pytest.mark.parametrize(
    ("limit", "workers"),
    [(None, 8), (64 << 30, 8), (2 << 30, 2), (1 << 30, 1), (100 << 20, 1)],
)
def test_memory_limits_the_image_workers_too(
    limit: int | None, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    assert image_workers(ContainerLimits(memory_bytes=limit)) == workers


def test_a_gpu_leaves_the_image_workers_all_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as the container's quota and memory go."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    assert image_workers(ContainerLimits(), gpus=1) == 16
    small = ContainerLimits(memory_bytes=7 << 30)
    assert [image_workers(small, gpus=count) for count in (0, 1, 2, 4)] == [8, 6, 2, 1]
    assert image_workers(ContainerLimits(1.0, 7 << 30), gpus=1) == 2


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


@pytest.mark.parametrize(("cores", "fronts"), [(2, 1), (7, 1), (8, 2), (16, 4), (128, MOST_FRONTS)])
def test_a_gpu_gets_a_front_for_each_four_cpus(
    cores: int, fronts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    assert front_processes(ContainerLimits(), gpus=1) == fronts
    assert front_processes(ContainerLimits(), gpus=0) == 1
    assert front_processes(ContainerLimits(cpus=4.0), gpus=1) == 1


def test_fronts_are_for_gpus_that_will_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_workers_module, "gpus_shown", lambda: 2)
    assert gpus_of(Settings()) == 2
    assert gpus_of(Settings(devices="cuda:0")) == 1
    assert gpus_of(Settings(device="cpu")) == 0
