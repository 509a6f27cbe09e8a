"""Settings of quantization-aware training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from model_store.weight_levels import EIGHT_BIT_LEVELS
from training.errors import ConfigError
from training.settings import Count, NotNegative, check_settings

LevelCount = Literal[2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 127]
"""What `model_store.weight_levels.WeightLevels` takes."""


@dataclass(frozen=True)
class QatConfig:
    """Quantization-aware training.

    Attributes:
        sensitivity: CSV of ``python -m training sensitivity``, which decides the layers that stay
            float; empty quantizes every layer.
        dice_margin: A layer stays float when it alone loses more than this Dice.
        ssim_margin: Or when it alone loses more than this SSIM of the masks.
        calibration_batches: Batches by which activation scales are set before training.
        train_base: Whether the base weights learn too, not the adapters alone.
        weight_levels: How many integers a weight may be: 127 are the ±63 of 8-bit models; 2 to 16
            are stored packed (4 are ±1 and ±3 in 2 bits). With these every weight learns, so that
            ``train_base`` says nothing. It starts from GPTQ by as many X-rays as the calibration
            batches hold, 48 or more, unchanged and equally many of each data set.
        integers_learn: Whether weights of 2 to 16 levels learn which integer they are; if not,
            they stay as GPTQ left them, and scales, biases and norms learn.
    """

    sensitivity: str = ""
    dice_margin: NotNegative = 0.0005
    ssim_margin: NotNegative = 0.005
    calibration_batches: Count = 8
    train_base: bool = False
    weight_levels: LevelCount = EIGHT_BIT_LEVELS
    integers_learn: bool = True

    def __post_init__(self) -> None:
        """Refuse negative margins, and no calibration: first scales would be arbitrary.

        Also frozen integers of 8 bits, which are not parameters of their own.
        """
        check_settings(self, "qat")
        if not self.integers_learn and self.weight_levels == EIGHT_BIT_LEVELS:
            raise ConfigError(
                f"qat.integers_learn is false; with qat.weight_levels {EIGHT_BIT_LEVELS} integers "
                "follow the float weights, so set weight_levels to 2..16"
            )
