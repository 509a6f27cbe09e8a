"""From a config to a running loop: data, model, stage and folder put together."""

from __future__ import annotations

import dataclasses
import itertools
import json
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch

from model_store.architecture import SamConfig, build_sam
from model_store.conventions import CONVENTIONS
from model_store.geometry import window_to_uint8
from model_store.weight_levels import EIGHT_BIT_LEVELS
from training.acceleration.distributed import ONE_PROCESS, Processes
from training.acceleration.recomputation import recompute_encoder_blocks
from training.adapters.config import AdaptationConfig
from training.checkpoint import LatestCheckpoint, holds_run, load_latest
from training.config import RunConfig
from training.data.batches import BatchSource
from training.data.config import DataConfig
from training.data.dataset import DataRow, LabelledXray, fold_of, load_xrays, read_rows
from training.data.further_masks import with_further_masks
from training.errors import ConfigError, DataError
from training.evaluation.drawn_otherwise import names_drawn_otherwise
from training.phantom import draw_phantom
from training.quantization.sensitivity.choice import choose_precisions, stored_choice
from training.run.loop import TrainingLoop
from training.run.run import Run
from training.run.teacher import load_teacher
from training.stages.base import Base, load_base
from training.stages.baseline_stages import build_stage1
from training.stages.few_level_stage import FewLevelStage
from training.stages.qat_stage import QatStage
from training.stages.resizing import resized_model
from training.stages.stage import PretrainStage, Stage

PHANTOM_SOURCE = "phantom"


def load_training_xrays(config: DataConfig) -> list[LabelledXray]:
    """Read the ``train`` split into memory and draw the phantoms beside it.

    Raises:
        DataError: The data set cannot be used, or nothing is left of it.
    """
    rows = _wanted_rows(config, "train")
    for root in config.also:
        rows += read_rows(Path(root), "train", config.structure)
    rows = [row for row in rows if fold_of(row.group, config.folds) != config.without_fold]
    otherwise = names_drawn_otherwise(Path(path) for path in config.drawn_otherwise)
    rows = [row for row in rows if row.name not in otherwise]
    if not rows:
        raise DataError(f"{config.root}: data.drawn_otherwise leaves nothing to train on")
    xrays = with_further_masks(load_xrays(rows, config.cached_side), config.further_masks)
    if config.phantoms:
        with ProcessPoolExecutor() as pool:
            seeds = range(config.phantoms)
            sides = itertools.repeat(config.cached_side)
            xrays += pool.map(_draw_labelled_phantom, seeds, sides, chunksize=8)
    return xrays


def _wanted_rows(config: DataConfig, split: str) -> list[DataRow]:
    rows = read_rows(Path(config.root), split, config.structure)
    rows = [row for row in rows if row.source not in config.leave_out]
    if not rows:
        raise DataError(f"{config.root}: data.leave_out leaves nothing of the split {split!r}")
    return rows


def _draw_labelled_phantom(seed: int, longest_side: int) -> LabelledXray:
    """Draw phantom ``seed``; even ones show one convention, odd ones the other."""
    convention = CONVENTIONS[seed % len(CONVENTIONS)]
    rng = np.random.default_rng([seed, longest_side])
    sides = rng.integers(3 * longest_side // 4, longest_side + 1, 2)
    phantom = draw_phantom(1000 + seed, (int(sides[0]), int(sides[1])))
    lungs = np.stack([phantom.image_left_lung(convention), phantom.image_right_lung(convention)])
    image = window_to_uint8(phantom.image)
    name = f"phantom_{seed}"
    return LabelledXray(name, PHANTOM_SOURCE, convention, image, lungs, group=name)


def load_validation_xrays(config: DataConfig) -> list[LabelledXray]:
    """Read the ``val`` split at its own resolution, without the sources that are left out."""
    return load_xrays(_wanted_rows(config, "val"))


def batch_source(
    config: RunConfig, architecture: SamConfig, xrays: list[LabelledXray]
) -> BatchSource:
    """Return the batches of a run."""
    return BatchSource(
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


def prepare_run(
    config: RunConfig,
    base: Path | None,
    folder: Path,
    *,
    resume: bool,
    device: torch.device,
    processes: Processes = ONE_PROCESS,
) -> TrainingLoop:
    """Put a run together: its folder, data, model and stage, at its first or last stored step.

    Args:
        config: The run.
        base: Checkpoint, run folder or Meta's file that the stage starts from; None for a
            ``pretrain`` from random weights.
        folder: Where the run writes; made when it is not there.
        resume: Whether to continue from the newest checkpoint in ``folder``.
        device: Where to compute.
        processes: Those that train together; this one makes its share of every batch.

    Raises:
        ConfigError: No base where one is needed, a run in ``folder`` that is not resumed, a
            teacher that does not fit, or a batch that cannot be divided among the processes.
        CheckpointError: The base, a teacher or the checkpoint to resume cannot be used.
        ArtifactError: The base or a teacher is a stored model that is refused.
        DataError: The data set cannot be used.
    """
    if not resume and holds_run(folder):
        raise ConfigError(f"{folder} holds a run already; add --resume or choose another folder")
    torch.manual_seed(config.seed)
    if config.stage == "pretrain":
        start = _pretraining_start(config.model, base)
    elif base is None:
        raise ConfigError(f"{config.stage} needs --base, the checkpoint that it starts from")
    else:
        start = load_base(base, config.input_size)
    # Adapters keep the settings that they were made with.
    config = dataclasses.replace(config, **start.settings)
    if config.stage == "stage2" and (start.stage == "stored" or _is_few_levels(config)):
        # A stored model has no adapters left, and weights of few levels take them in.
        config = dataclasses.replace(config, adaptation=AdaptationConfig("full"))
    latest = processes.from_writer(lambda: _latest(folder)) if resume else None
    stage = _stage(config, start, latest)
    # Before data are read and anything is written: a wrong name is refused at once. After the
    # stage, because building a model draws from the generator that initialises the adapters.
    teacher = load_teacher(config, start.architecture, device)
    source = batch_source(config, start.architecture, load_training_xrays(config.data))
    stage.to(device)
    if isinstance(stage, QatStage) and latest is None:
        stage.calibrate(source)
    if config.recompute_blocks:
        recompute_encoder_blocks(stage.model)
    if processes.is_writer:
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(config.to_dict(), indent=2)
        (folder / "config.json").write_text(text, encoding="utf-8")
    run = Run(
        config, start.architecture, stage, source.divided(processes),
        load_validation_xrays(config.data), folder, device, start.lineage, processes, teacher,
    )  # fmt: skip
    loop = TrainingLoop(run)
    if latest is not None:
        loop.resume(latest.state, latest.path.name)
    return loop


def _pretraining_start(architecture: SamConfig, base: Path | None) -> Base:
    """Return a fresh model, or an earlier one to train further, at the config's sizes."""
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


def _latest(folder: Path) -> LatestCheckpoint | None:
    """Return the newest checkpoint of a run, if any, and say which ones were passed over."""
    latest = load_latest(folder)
    if latest is not None and latest.refused:
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
    # A table may have been measured anew since; a run that goes on keeps its choice.
    choice = choose_precisions(config.qat) if latest is None else stored_choice(latest.state)
    kind = FewLevelStage if _is_few_levels(config) else QatStage
    return kind(start.model, config.qat, choice)


def _is_few_levels(config: RunConfig) -> bool:
    return config.qat.weight_levels != EIGHT_BIT_LEVELS
