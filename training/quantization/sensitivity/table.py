"""The sensitivity table: the loss of each layer when it alone is quantized, as CSV and text.

Layers that lose more than a stated margin stay float in stage 2. So the choice is a repeatable
measurement and not a list of names.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from training.errors import ConfigError

ALL_LAYERS = "(all layers)"
"""Name of the row in which every layer is quantized at once."""


@dataclass(frozen=True)
class LayerSensitivity:
    """The loss against the float model when one layer is quantized.

    Attributes:
        layer: Its name, or `ALL_LAYERS`.
        weights: Number of its weights.
        dice_lost: Mean Dice of the float model minus mean Dice with the layer quantized; each data
            set has the same weight. Negative if quantizing happened to help.
        worst_dice_lost: The same on the X-ray and box that lost most.
        ssim_lost: 1 minus the mean SSIM of the mask with the float model's mask.
    """

    layer: str
    weights: int
    dice_lost: float
    worst_dice_lost: float
    ssim_lost: float


@dataclass(frozen=True)
class SensitivityTable:
    """A row per layer, by decreasing loss.

    Attributes:
        together: Every layer quantized at once.
        layers: Each layer alone.
    """

    together: LayerSensitivity
    layers: tuple[LayerSensitivity, ...]

    @classmethod
    def of(cls, rows: Iterable[LayerSensitivity]) -> SensitivityTable:
        """Sort rows, `ALL_LAYERS` among them, by Dice lost, then by SSIM lost."""
        by_name = {row.layer: row for row in rows}
        together = by_name.pop(ALL_LAYERS)
        order = sorted(by_name.values(), key=lambda r: (-r.dice_lost, -r.ssim_lost, r.layer))
        return cls(together, tuple(order))

    def beyond(self, dice_margin: float, ssim_margin: float) -> tuple[str, ...]:
        """Return the layers that lose more than a margin, in the table's order.

        A loss of exactly the margin is within it.
        """
        return tuple(
            row.layer
            for row in self.layers
            if row.dice_lost > dice_margin or row.ssim_lost > ssim_margin
        )


_COLUMNS = tuple(field.name for field in fields(LayerSensitivity))


def write_table(path: Path, table: SensitivityTable) -> None:
    """Write a table as CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, _COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in (table.together, *table.layers))


def read_table(path: Path) -> SensitivityTable:
    """Read a table that `write_table` wrote.

    Raises:
        ConfigError: The file is missing or not such a table.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if tuple(reader.fieldnames or ()) != _COLUMNS:
                raise ConfigError(f"{path} is not a sensitivity table: its columns are not "
                                  f"{', '.join(_COLUMNS)}")  # fmt: skip
            rows = [_row(path, reader.line_num, record) for record in reader]
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    names = [row.layer for row in rows]
    if ALL_LAYERS not in names or len(set(names)) != len(names):
        raise ConfigError(f"{path} is not a sensitivity table: a layer twice, or no {ALL_LAYERS}")
    return SensitivityTable.of(rows)


def _row(path: Path, line: int, record: dict[str, Any]) -> LayerSensitivity:
    try:
        losses = {name: float(record[name]) for name in _COLUMNS[2:]}
        return LayerSensitivity(record["layer"], int(record["weights"]), **losses)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{path}, line {line}: {error}") from error


def format_table(table: SensitivityTable, dice_margin: float, ssim_margin: float) -> str:
    """Return a table as text, with the layers that the margins keep float."""
    kept = table.beyond(dice_margin, ssim_margin)
    width = max(len(row.layer) for row in (table.together, *table.layers))
    head = (
        f"{'quantized alone':<{width}} {'weights':>10} {'Dice lost':>10} {'worst':>8} "
        f"{'SSIM lost':>10}   stage 2"
    )
    rule = "-" * len(head)
    lines = [head, rule]
    for row in table.layers:
        lines.append(f"{_cells(row, width)}   {'float' if row.layer in kept else 'int8'}")
    lines += [rule, _cells(table.together, width)]
    lines.append(
        f"{len(kept)} of {len(table.layers)} layers lose more than {dice_margin:g} Dice or "
        f"{ssim_margin:g} SSIM"
    )
    return "\n".join(lines)


def _cells(row: LayerSensitivity, width: int) -> str:
    return (
        f"{row.layer:<{width}} {row.weights:>10,} {row.dice_lost:>+10.5f} "
        f"{row.worst_dice_lost:>+8.4f} {row.ssim_lost:>10.5f}"
    )
