"""Training runs of a benchmark: trained once, resumed if stopped, read if finished.

With small models a GPU waits for Python, so several runs share it, each in its own process.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import torch

from training.config import RunConfig, load_config
from training.run.assembly import prepare_run

Job = TypeVar("Job")
Result = TypeVar("Result")

RECIPES = Path(__file__).parents[2] / "training" / "configs"


def sizes_for(input_size: int) -> dict[str, Any]:
    """Return the sizes of X-rays in memory and of masks in the loss for an input size, in px."""
    return {"data.cached_side": input_size * 9 // 8, "loss_size": input_size // 2}


def model_for(input_size: int) -> dict[str, Any]:
    """Return the default model at an input size: without windows where 12 patches do not fit."""
    fits = input_size % (16 * 12) == 0
    windows = {} if fits else {"model.window_size": 0, "model.global_attn_indexes": []}
    return {"model.input_size": input_size, **windows}


def recipe(stage: str, settings: Mapping[str, Any]) -> RunConfig:
    """Return the default model's recipe of a stage with some settings replaced by dotted name.

    It has no teachers, no lists made by teachers, and no compiler.
    """
    plain = {
        "teacher.models": [], "teacher.conventions": [], "teacher.held_out": False,
        "data.folds": 1, "data.convention_mismatch": [], "compile": False,
    }  # fmt: skip
    return load_config(RECIPES / f"cxr_lung_tiny_{stage}.toml", {**plain, **settings})


def train_unless_done(
    config: RunConfig, base: Path | None, folder: Path, device: torch.device
) -> None:
    """Train a run to its end; keep a finished run, and continue a stopped one."""
    if _events(folder, "end"):
        return
    resume = (folder / "latest.pt").exists()
    prepare_run(config, base, folder, resume=resume, device=device).run()


def side_by_side(
    function: Callable[[Job], Result], jobs: Sequence[Job], processes: int
) -> list[Result]:
    """Return ``function(job)`` of each job, in order, computed in a number of processes.

    Each process has one thread; with a single process everything runs in this one.
    """
    if processes == 1:
        return [function(job) for job in jobs]
    with ProcessPoolExecutor(
        processes, mp_context=get_context("spawn"), initializer=_take_one_thread
    ) as pool:
        return list(pool.map(function, jobs))


def _take_one_thread() -> None:
    torch.set_num_threads(1)


def seconds_per_epoch(folder: Path, steps_per_epoch: int) -> float | None:
    """Return the time of one epoch's optimizer steps, from the median step of the run's log.

    It excludes making batches, which other processes do, and validation.
    """
    seconds = [event["step_s"] for event in _events(folder, "step")]
    return statistics.median(seconds) * steps_per_epoch if seconds else None


def _events(folder: Path, kind: str) -> list[dict[str, Any]]:
    log = folder / "log.jsonl"
    if not log.exists():
        return []
    events = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return [event for event in events if event["event"] == kind]
