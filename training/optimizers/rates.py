"""The schedule of learning rates."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from training.optimizers.config import OptimizerConfig


def rate_share(step: int, steps: int, config: OptimizerConfig) -> float:
    """Return the share of the peak rate at a step: linear rise, constant, linear fall to 0.

    The constant middle allows a run to be prolonged later.
    """
    rise = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    decay_steps = config.decay_share * steps
    fall = min(1.0, (steps - step) / decay_steps) if decay_steps else 1.0
    return rise * fall


def set_rates(optimizers: Iterable[torch.optim.Optimizer], share: float) -> None:
    """Set every group's rate to ``share`` of its peak."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * share
