"""Settings of quantization-aware training."""

from __future__ import annotations

from dataclasses import dataclass

from training.errors import ConfigError


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
    dice_margin: float = 0.0005
    ssim_margin: float = 0.005
    calibration_batches: int = 8
    train_base: bool = False

    def __post_init__(self) -> None:
        """Refuse negative margins, and no calibration: first scales would be arbitrary."""
        if self.calibration_batches < 1:
            raise ConfigError("qat.calibration_batches is at least 1")
        if min(self.dice_margin, self.ssim_margin) < 0:
            raise ConfigError("qat.dice_margin and ssim_margin are at least 0")
