"""The choice of layers that stay float in stage 2, from the sensitivity table, and its record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training.errors import ConfigError
from training.quantization.config import QatConfig
from training.quantization.sensitivity.table import LayerSensitivity, read_table


@dataclass(frozen=True)
class PrecisionChoice:
    """The layers that stay float, and why.

    Attributes:
        float_layers: Their names, by decreasing loss.
        record: Margins, and precision and losses of every layer; empty without a table.
    """

    float_layers: tuple[str, ...] = ()
    record: dict[str, Any] = field(default_factory=dict)


EVERY_LAYER_INT8 = PrecisionChoice()


def choose_precisions(config: QatConfig) -> PrecisionChoice:
    """Choose by the configured table; without one every layer becomes int8.

    Raises:
        ConfigError: The table cannot be read.
    """
    if not config.sensitivity:
        return EVERY_LAYER_INT8
    table = read_table(Path(config.sensitivity))
    kept = table.beyond(config.dice_margin, config.ssim_margin)
    record = {
        "dice_margin": config.dice_margin,
        "ssim_margin": config.ssim_margin,
        "together": _losses(table.together),
        "layers": {
            row.layer: {"precision": "float" if row.layer in kept else "int8", **_losses(row)}
            for row in table.layers
        },
    }
    return PrecisionChoice(kept, record)


def stored_choice(state: Mapping[str, Any]) -> PrecisionChoice:
    """Return the choice in a stage 2 checkpoint, even if the table has changed.

    Older checkpoints name their float layers in the settings.
    """
    stage_state = state["stage_state"]
    if "float_layers" in stage_state:
        return PrecisionChoice(tuple(stage_state["float_layers"]), stage_state["sensitivity"])
    return PrecisionChoice(tuple(state["config"]["qat"]["float_layers"]))


def check_layers(choice: PrecisionChoice, names: list[str]) -> None:
    """Refuse a table of another model.

    Args:
        choice: Choice by a table.
        names: The quantizable layers of the model.

    Raises:
        ConfigError: The table's layers are not the model's.
    """
    measured = choice.record.get("layers", dict.fromkeys(choice.float_layers))
    unknown = sorted(set(measured) - set(names))
    missing = sorted(set(names) - set(measured)) if choice.record else []
    if unknown or missing:
        odd = f"has no layer {unknown[0]}" if unknown else f"has a layer {missing[0]} beside it"
        raise ConfigError(f"the sensitivity table is of another model: this one {odd}")


def _losses(row: LayerSensitivity) -> dict[str, float]:
    return {
        "dice_lost": row.dice_lost,
        "worst_dice_lost": row.worst_dice_lost,
        "ssim_lost": row.ssim_lost,
    }
