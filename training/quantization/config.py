"""Settings of quantization-aware training."""

from __future__ import annotations

from dataclasses import dataclass

from training.settings import Count, NotNegative, check_settings


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
    """

    sensitivity: str = ""
    dice_margin: NotNegative = 0.0005
    ssim_margin: NotNegative = 0.005
    calibration_batches: Count = 8
    train_base: bool = False

    def __post_init__(self) -> None:
        """Refuse negative margins, and no calibration: first scales would be arbitrary."""
        check_settings(self, "qat")
