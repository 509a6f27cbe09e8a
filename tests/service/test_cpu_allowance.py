"""Threads of the model: the allowed CPUs less one, never none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from service.compute.cpu_allowance import MOST_THREADS, model_threads


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
