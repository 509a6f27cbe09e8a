"""Assembly of a run from its config: data, model, stage and folder."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import torch

from model_store.architecture import SamConfig, build_sam
from model_store.weight_levels import EIGHT_BIT_LEVELS
from training.acceleration.activation_checkpointing import recompute_encoder_blocks
from training.acceleration.distributed import ONE_PROCESS, Processes
from training.adapters.config import AdaptationConfig
from training.checkpoint import LatestCheckpoint, holds_run, load_latest
from training.config import RunConfig
from training.data.batches import BatchSource
from training.data.dataset import LabelledXray
from training.errors import ConfigError
from training.quantization.sensitivity.choice import choose_precisions, stored_choice
from training.run.loop import TrainingLoop
from training.run.provenance import further_mask_digests, provenance_of, row_digests, trained_on
from training.run.record import BEGINNING, RunRecord, read_beginning, write_beginning
from training.run.resuming import check_same_data, check_same_teachers, settings_to_resume
from training.run.run import Run
from training.run.selection import Selection, load_training_xrays, load_validation_xrays, select
from training.run.teacher import load_teacher
from training.stages.base import Base, load_base
from training.stages.baseline_stages import build_stage1
from training.stages.few_level_stage import FewLevelStage
from training.stages.qat_stage import QatStage
from training.stages.resizing import resized_model
from training.stages.stage import PretrainStage, Stage


def batch_source(
    config: RunConfig, architecture: SamConfig, xrays: list[LabelledXray]
) -> BatchSource:
    """Return the batches of a run.

    Raises:
        ConfigError: There are fewer X-rays than a batch has.
    """
    source = BatchSource(
        xrays,
        config.data.repeats,
        config.augment,
        config.prompts,
        input_size=architecture.input_size,
        loss_size=config.loss_size,
        batch_size=config.batch_size,
        prompts_per_image=config.prompts_per_image,
        seed=config.seed,
        folds=config.data.folds,
    )
    if config.batch_size > source.rows_per_epoch:
        raise ConfigError(
            f"batch_size is {config.batch_size}; there are only {source.rows_per_epoch} X-rays to "
            "train on, each counted as often as data.repeats says"
        )
    return source


def prepare_run(
    config: RunConfig,
    base: Path | None,
    folder: Path,
    *,
    resume: bool,
    device: torch.device,
    processes: Processes = ONE_PROCESS,
    command: str = "",
    extend: bool = False,
) -> TrainingLoop:
    """Assemble a run: folder, data, model and stage, at its first or last stored step.

    Args:
        config: Settings of the run.
        base: Checkpoint, run folder or Meta's file that the stage starts from; None for a
            ``pretrain`` from random weights.
        folder: Folder of the run; created if missing.
        resume: Whether to continue from the newest checkpoint in ``folder``.
        device: Where to compute.
        processes: The processes of the run; this one makes its share of every batch.
        command: Command line of the run, for its record.
        extend: Whether a resumed run may have more steps than at first.

    Raises:
        ConfigError: A base is missing, ``folder`` has a run that is not resumed or had other
            settings, the manifest lacks a name, a teacher does not fit, or a batch cannot be filled
            or divided among the processes.
        CheckpointError: The base, a teacher or the checkpoint to resume cannot be used, or the run
            had other X-rays.
        ArtifactError: The base or a teacher is a stored model that is refused.
        DataError: The data set cannot be used.
    """
    if not resume and holds_run(folder):
        raise ConfigError(f"{folder} holds a run already; add --resume or choose another folder")
    begun = processes.from_writer(lambda: _begun(folder)) if resume else None
    selection = select(config.data)
    torch.manual_seed(config.seed)
    if config.stage == "pretrain":
        start = _pretraining_start(config.model, base)
    elif base is None:
        raise ConfigError(f"{config.stage} needs --base, the checkpoint that it starts from")
    else:
        start = load_base(base, config.input_size)
    # Adapters keep their original settings.
    config = dataclasses.replace(config, **start.settings)
    if config.stage == "stage2" and (start.stage == "stored" or _is_few_levels(config)):
        # A stored model has no adapters, and weights of few levels have them folded in.
        config = dataclasses.replace(config, adaptation=AdaptationConfig("full"))
    record = _record(config, selection, start, command)
    if begun is not None:
        config, said = settings_to_resume(config, begun.state, extend=extend)
        check_same_data(begun.state, record.rows, start.lineage)
        record = record.of_the_beginning(begun.state)
        if said and processes.is_writer:
            print(said, file=sys.stderr)
    latest = begun if begun is not None and "model" in begun.state else None
    stage = _stage(config, start, latest)
    # Before data are read and anything is written, so that a wrong name is refused at once. After
    # the stage, because building a model uses the random generator that initialises the adapters.
    teacher = load_teacher(config, start.architecture, device)
    if teacher is not None:
        record = dataclasses.replace(record, teachers=teacher.weights_sha256())
    if begun is not None:
        check_same_teachers(begun.state, record.teachers)
    source = batch_source(config, start.architecture, load_training_xrays(config.data, selection))
    validation = load_validation_xrays(config.data, selection)
    stage.to(device)
    if isinstance(stage, QatStage) and latest is None:
        stage.calibrate(source)
    if config.recompute_blocks:
        recompute_encoder_blocks(stage.model)
    if processes.is_writer:
        write_beginning(folder, config, record)
    run = Run(
        config, start.architecture, stage, source.divided(processes), validation, folder, device,
        start.lineage, processes, teacher, record,
    )  # fmt: skip
    loop = TrainingLoop(run)
    if latest is not None:
        loop.resume(latest.state, latest.path.name)
    return loop


def _record(config: RunConfig, selection: Selection, start: Base, command: str) -> RunRecord:
    return RunRecord(
        provenance_of(selection, command).to_dict(),
        {
            "train": row_digests(selection.train),
            "val": row_digests(selection.val),
            "further masks": further_mask_digests(config.data.further_masks),
        },
        trained_on(selection.train, start.trained_on),
        start.counted_before,
    )


def _pretraining_start(architecture: SamConfig, base: Path | None) -> Base:
    """Return a new model, or an earlier one to train further, with the config's sizes."""
    if base is None:
        return Base(architecture, build_sam(architecture), "fresh", ())
    start = load_base(base)
    if start.stage not in ("pretrain", "stored"):
        raise ConfigError(
            f"pretrain goes on from a pretrain or a stored model, not from {start.stage}"
        )
    try:
        model = resized_model(start.architecture, start.model, architecture)
    except ValueError as error:
        raise ConfigError(f"{base} does not fit the config's [model]: {error}") from error
    return dataclasses.replace(start, architecture=architecture, model=model)


def _begun(folder: Path) -> LatestCheckpoint:
    """Return the newest checkpoint of a run, or its initial record if it has none.

    Print which checkpoints were skipped.

    Raises:
        CheckpointError: There is no run in the folder, or none of its checkpoints can be read.
    """
    latest = load_latest(folder)
    if latest is None:
        return LatestCheckpoint(read_beginning(folder), folder / BEGINNING, ())
    if latest.refused:
        step = latest.state["step"]
        print(f"{latest.refused[0]}; going on from {latest.path}, step {step}", file=sys.stderr)
    return latest


def _stage(config: RunConfig, start: Base, latest: LatestCheckpoint | None) -> Stage:
    if config.stage == "pretrain":
        return PretrainStage(start.model)
    if config.stage == "stage1":
        if start.stage not in ("pretrain", "meta", "stored"):
            raise ConfigError(
                "stage1 starts from a pretrain, Meta's file or a stored model, not from "
                f"{start.stage}"
            )
        return build_stage1(start.model, config)
    if start.stage not in ("stage1", "stored"):
        raise ConfigError(f"stage2 starts from stage1 or a stored model, not from {start.stage}")
    # The table may have changed since; a resumed run keeps its choice.
    choice = choose_precisions(config.qat) if latest is None else stored_choice(latest.state)
    kind = FewLevelStage if _is_few_levels(config) else QatStage
    return kind(start.model, config.qat, choice)


def _is_few_levels(config: RunConfig) -> bool:
    return config.qat.weight_levels != EIGHT_BIT_LEVELS
