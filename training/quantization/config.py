"""Settings of quantization-aware training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from model_store.weight_levels import EIGHT_BIT_LEVELS
from training.errors import ConfigError
from training.settings import Count, NotNegative, check_settings

ActivationBits = Literal[3, 4, 5, 6, 7, 8]

LevelCount = Literal[2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 127]
"""The counts that `model_store.weight_levels.WeightLevels` accepts."""


@dataclass(frozen=True)
class QatConfig:
    """Quantization-aware training.

    Attributes:
        sensitivity: CSV of ``python -m training sensitivity``, which decides the layers that stay
            float; empty quantizes every layer.
        dice_margin: A layer stays float if it alone loses more Dice than this.
        ssim_margin: A layer also stays float if it alone loses more SSIM of the masks than this.
        calibration_batches: Batches that set the activation scales before training.
        train_base: Whether to train the base weights beside the adapters.
        weight_levels: Number of integers of a weight: 127 for the ±63 of 8-bit models; 2 to 16 are
            stored packed (4 are ±1 and ±3 in 2 bits). With few levels every weight is trained, and
            ``train_base`` has no effect. Training starts from GPTQ with the number of X-rays in the
            calibration batches, at least 48, unchanged and equally many of each data set.
        activation_bits: Bits of every layer's input. Engines execute 8; a run of fewer shows what
            it would cost, and cannot be exported.
        integers_learn: Whether the integers of 2 to 16 levels are trained; if not, they stay as
            GPTQ made them, and scales, biases and norms are trained.
    """

    sensitivity: str = ""
    dice_margin: NotNegative = 0.0005
    ssim_margin: NotNegative = 0.005
    calibration_batches: Count = 8
    train_base: bool = False
    weight_levels: LevelCount = EIGHT_BIT_LEVELS
    activation_bits: ActivationBits = 8
    integers_learn: bool = True

    def __post_init__(self) -> None:
        """Refuse negative margins, and a run without calibration, whose scales would be arbitrary.

        Also refuse frozen integers of 8 bits, which are not separate parameters.
        """
        check_settings(self, "qat")
        if not self.integers_learn and self.weight_levels == EIGHT_BIT_LEVELS:
            raise ConfigError(
                f"qat.integers_learn is false; with qat.weight_levels {EIGHT_BIT_LEVELS} integers "
                "follow the float weights, so set weight_levels to 2..16"
            )
