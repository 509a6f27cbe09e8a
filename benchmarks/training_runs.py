"""Training runs that a benchmark needs: trained once, resumed when stopped, read when finished."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from training.config import RunConfig, load_config
from training.runs import prepare_run

RECIPES = Path(__file__).parents[1] / "training" / "configs"


def recipe(stage: str, settings: Mapping[str, Any]) -> RunConfig:
    """Return the default model's recipe of a stage with some settings replaced by dotted name."""
    return load_config(RECIPES / f"cxr_lung_tiny_{stage}.toml", settings)


def train_unless_done(
    config: RunConfig, base: Path | None, folder: Path, device: torch.device
) -> None:
    """Train a run to its end; a finished one is left alone, a stopped one goes on."""
    if _events(folder, "end"):
        return
    resume = (folder / "latest.pt").exists()
    prepare_run(config, base, folder, resume=resume, device=device).run()


def seconds_per_epoch(folder: Path, steps_per_epoch: int) -> float | None:
    """Return the time of one epoch's optimizer steps, from the median step of the run's log.

    Without the making of batches, which other processes do, and without validation.
    """
    seconds = [event["step_s"] for event in _events(folder, "step")]
    return statistics.median(seconds) * steps_per_epoch if seconds else None


def _events(folder: Path, kind: str) -> list[dict[str, Any]]:
    log = folder / "log.jsonl"
    if not log.exists():
        return []
    events = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return [event for event in events if event["event"] == kind]
