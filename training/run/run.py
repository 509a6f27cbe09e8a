"""The parts of one run, fixed before its first step."""

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
    """Model, data and folder of a training loop.

    Attributes:
        architecture: Sizes of the model.
        stage: The stage with its model.
        source: The batches; with several processes, this process's share of every step.
        validation: X-rays that decide which weights are stored.
        folder: Folder for checkpoints and the log.
        device: Where to compute.
        lineage: Earlier stages, the first one first.
        processes: The processes of the run.
        teacher: The teachers, if any.
        record: Record of the run, for its checkpoints.
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
