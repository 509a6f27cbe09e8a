"""Settings of how weights move."""

from __future__ import annotations

from dataclasses import dataclass

from training.errors import ConfigError


@dataclass(frozen=True)
class OptimizerConfig:
    """How weights move.

    Attributes:
        learning_rate: Peak rate of AdamW.
        matrix_learning_rate: Peak rate of Muon for the encoder's weight matrices; 0 leaves
            them to AdamW.
        singular_rate: AdaLoRA's lambdas learn at this multiple of ``learning_rate``. All of an
            adapter's growth goes through R lambdas at first, where LoRA has R columns of numbers
            that move at once; at the same rate AdaLoRA falls behind (docs/LOG.md, 2026-11-24).
        weight_decay: Decoupled weight decay.
        warmup_steps: Linear rise from 0.
        decay_share: Share of the steps, at the end, over which the rate falls linearly to 0.
        clip_norm: Gradients are scaled down to this global norm.
        ema_decay: Decay of the running mean of the weights, which is what is kept; 0 for none.
    """

    learning_rate: float = 1e-3
    matrix_learning_rate: float = 0.0
    singular_rate: float = 16.0
    weight_decay: float = 0.05
    warmup_steps: int = 100
    decay_share: float = 0.4
    clip_norm: float = 1.0
    ema_decay: float = 0.998

    def __post_init__(self) -> None:
        """Refuse rates and shares out of range."""
        if self.learning_rate <= 0 or self.matrix_learning_rate < 0 or self.weight_decay < 0:
            raise ConfigError("optimizer rates must be positive and weight_decay at least 0")
        if self.singular_rate <= 0:
            raise ConfigError(f"optimizer.singular_rate is {self.singular_rate}; must be positive")
        if not 0 <= self.decay_share <= 1 or not 0 <= self.ema_decay < 1:
            raise ConfigError("optimizer.decay_share lies in 0..1, ema_decay in 0..1 without 1")
        if self.warmup_steps < 0 or self.clip_norm <= 0:
            raise ConfigError("optimizer.warmup_steps is at least 0, clip_norm positive")
