"""From a config to a running loop: data, model, stage and folder put together."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import torch

from model_store.architecture import SamConfig, build_sam
from model_store.conventions import CONVENTIONS
from model_store.geometry import window_to_uint8
from training.batches import BatchSource
from training.config import DataConfig, RunConfig
from training.dataset import LabelledXray, load_xrays, read_rows
from training.loop import TrainingLoop
from training.phantom import draw_phantom
from training.stages import PretrainStage, Stage

PHANTOM_SOURCE = "phantom"


def load_training_xrays(config: DataConfig) -> list[LabelledXray]:
    """Read the ``train`` split into memory and draw the phantoms beside it.

    Raises:
        DataError: The data set cannot be used.
    """
    xrays = load_xrays(read_rows(Path(config.root), "train"), config.cached_side)
    conventions = itertools.cycle(CONVENTIONS)
    for seed, convention in zip(range(config.phantoms), conventions, strict=False):
        rng = np.random.default_rng([seed, config.cached_side])
        height, width = (int(v) for v in rng.integers(3 * config.cached_side // 4, config.cached_side + 1, 2))
        phantom = draw_phantom(1000 + seed, (height, width))
        lungs = np.stack(
            [phantom.image_left_lung(convention), phantom.image_right_lung(convention)]
        )
        xrays.append(
            LabelledXray(
                f"phantom_{seed}", PHANTOM_SOURCE, convention, window_to_uint8(phantom.image), lungs
            )
        )
    return xrays


def load_validation_xrays(config: DataConfig) -> list[LabelledXray]:
    """Read the ``val`` split at its own resolution."""
    return load_xrays(read_rows(Path(config.root), "val"))


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
    )


def pretrain_stage(config: RunConfig) -> tuple[SamConfig, Stage]:
    """Build a model with fresh weights."""
    torch.manual_seed(config.seed)
    return config.model, PretrainStage(build_sam(config.model))


def training_loop(
    config: RunConfig, architecture: SamConfig, stage: Stage, folder: Path, device: torch.device
) -> TrainingLoop:
    """Put a run together; its folder is made and its settings are written into it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config.to_dict(), indent=2), encoding="utf-8")
    stage.model.to(device)
    source = batch_source(config, architecture, load_training_xrays(config.data))
    validation = load_validation_xrays(config.data)
    return TrainingLoop(config, architecture, stage, source, validation, folder, device)
