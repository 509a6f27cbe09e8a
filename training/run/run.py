"""One run: all that a training is made of, fixed before its first step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from model_store.architecture import SamConfig
from training.acceleration.distributed import ONE_PROCESS, Processes
from training.config import RunConfig
from training.data.batches import BatchSource
from training.data.dataset import LabelledXray
from training.run.record import NO_RECORD, RunRecord
from training.run.teacher import Teacher
from training.stages.stage import Stage


@dataclass(frozen=True)
class Run:
    """What the loop trains, on what, and where it writes.

    Attributes:
        architecture: Sizes of the model.
        stage: The model, and what the stage does with it.
        source: The batches; with several processes, this process's share of every step.
        validation: X-rays that decide which weights are kept.
        folder: Where checkpoints and the log are written.
        device: Where to compute.
        lineage: What was trained before, first stage first.
        processes: Those that train together.
        teacher: Finished models whose masks the run learns from, if any.
        record: Where the run comes from, for its checkpoints.
    """

    config: RunConfig
    architecture: SamConfig
    stage: Stage
    source: BatchSource
    validation: Sequence[LabelledXray]
    folder: Path
    device: torch.device
    lineage: Sequence[dict[str, Any]] = ()
    processes: Processes = ONE_PROCESS
    teacher: Teacher | None = None
    record: RunRecord = NO_RECORD
