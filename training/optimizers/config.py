"""Settings of the optimizers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Interval

from training.settings import CountOrNone, NotNegative, Positive, Share, check_settings


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimizers' settings.

    Attributes:
        learning_rate: Peak rate of AdamW.
        matrix_learning_rate: Peak rate of Muon for the encoder's weight matrices; 0 leaves
            them to AdamW.
        singular_rate: AdaLoRA's lambdas learn at this multiple of ``learning_rate``. At first an
            adapter grows only through its R lambdas, where LoRA has R columns of numbers; at the
            same rate AdaLoRA falls behind (docs/dev/LOG.md, 2026-11-24).
        scale_rate: Scales of fake quantization learn, in the logarithm, at this multiple of
            ``learning_rate``. At the common rate the 64 steps of a stage 2 could move a scale by
            only 0.35 %, while neighbouring candidates of the calibration differ by 5.6 %.
        unit_rate: Weights of few levels, in units of their scales, learn at this multiple, because
            they must reach the next integer.
        weight_decay: Decoupled weight decay.
        warmup_steps: Linear rise from 0.
        decay_share: Share of the steps, at the end, over which the rate falls linearly to 0.
        clip_norm: Gradients are scaled down to this global norm.
        ema_decay: Decay of the running mean of the weights, which is stored; 0 for none.
    """

    learning_rate: Positive = 1e-3
    matrix_learning_rate: NotNegative = 0.0
    singular_rate: Positive = 16.0
    scale_rate: Positive = 10.0
    unit_rate: Positive = 25.0
    weight_decay: NotNegative = 0.05
    warmup_steps: CountOrNone = 100
    decay_share: Share = 0.4
    clip_norm: Positive = 1.0
    ema_decay: Annotated[float, Interval(ge=0, lt=1)] = 0.998

    def __post_init__(self) -> None:
        """Refuse rates and shares out of range."""
        check_settings(self, "optimizer")
