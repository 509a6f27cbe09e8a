"""A compute process that is started before anybody needs it."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.service.server_process import running_server
from service.compute import early_start
from service.compute.early_start import STORED_MODEL, EarlyStart
from service.compute.model_loading import start_compute_child
from service.settings import Settings
from tests.service.live_service import compute_process


def test_the_first_who_needs_it_takes_it_over(tiny_artifact: Path) -> None:
    early = EarlyStart("cpu")
    assert early.take("another:model", {}) is None
    assert early.take(STORED_MODEL, {"CUDA_VISIBLE_DEVICES": "1"}) is None
    assert early._started is not None
    waiting = early._started[1].pid
    settings = Settings(model=tiny_artifact, device="cpu", threads=1)
    child = start_compute_child(settings, early)
    assert child.process_id == waiting
    assert child.self_test().passed
    another = start_compute_child(settings, early)
    assert another.process_id != waiting
    child.close()
    another.close()


def test_one_that_nobody_takes_is_ended() -> None:
    early = EarlyStart("cpu")
    assert early._started is not None
    process = early._started[1]
    early.close()
    assert process.poll() is not None
    assert early.take(STORED_MODEL, {}) is None


def test_a_process_that_cannot_be_had_now_is_asked_for_again(
    tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no process")

    with monkeypatch.context() as patch:
        patch.setattr(early_start, "start_child", refuse)
        early = EarlyStart("cpu")
    child = start_compute_child(Settings(model=tiny_artifact, device="cpu", threads=1), early)
    assert child.is_running
    child.close()


def test_the_service_starts_its_one_compute_process_first(tiny_artifact: Path) -> None:
    with running_server(tiny_artifact, ["--threads", "1"]) as server:
        started = _started_at(compute_process(server))
        template = [one for one in _children(server.process.pid) if "template" in _line(one)]
        assert started < min(map(_started_at, template))


def _children(process: int) -> list[int]:
    tasks = Path(f"/proc/{process}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def _line(process: int) -> str:
    return Path(f"/proc/{process}/cmdline").read_text()


def _started_at(process: int) -> int:
    """Clock ticks between the start of the machine and that of a process."""
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19])
