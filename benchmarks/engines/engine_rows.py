"""Rows of the engine's benchmark: times and ratios."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np


@dataclass
class Timing:
    """The result of one row in one cell (a model at a batch size).

    Attributes:
        milliseconds: Time of each call on all images, by stage, in the order of the rounds.
        empty_mib: Resident memory before the model was loaded: Python and PyTorch.
        peak_mib: Largest resident memory of the row's process.
        dice: Mean Dice of its masks with those of FP32 eager; None without these.
        engine: Name of this project's engine, in its own rows.
    """

    milliseconds: dict[str, list[float]] = field(default_factory=dict)
    empty_mib: float = 0.0
    peak_mib: float = 0.0
    dice: float | None = None
    engine: str | None = None

    @property
    def above_empty_mib(self) -> float:
        """Memory of the model and its work."""
        return self.peak_mib - self.empty_mib


@dataclass(frozen=True)
class Row:
    """One line of the table; times are for one image, ratios above 1 mean faster than the other.

    Memory is the peak of the row's process, and its ratio to FP32 eager's, with and without Python
    and PyTorch.
    """

    model: str
    batch: int
    stage: str
    row: str
    rounds: int
    median_ms: float
    p95_ms: float
    times_eager: float | None
    times_fastest_fp32_peer: float | None
    peak_mib: float
    peak_over_eager: float | None
    above_empty_over_eager: float | None
    dice: float | None
    ceiling_share: float | None
    engine: str | None


def rows_of_cell(
    model: str,
    batch: int,
    timings: Mapping[str, Timing],
    *,
    eager: str,
    fp32_peers: Sequence[str],
    own_int8: str,
    encoder_share: float | None,
) -> list[Row]:
    """Return the rows of one cell from its times.

    Args:
        model: Name of the model.
        batch: Images in one call.
        timings: Results of the rows, by label.
        eager: Row that is the base of ratios.
        fp32_peers: Rows of FP32 peers, of which the fastest is chosen for each stage.
        own_int8: Row of ``encoder_share``.
        encoder_share: Its encoder's share of the ceiling, 0 to 1.
    """
    rows = []
    for stage in next(iter(timings.values())).milliseconds:
        times = {name: timing.milliseconds[stage] for name, timing in timings.items()}
        medians = {name: statistics.median(values) for name, values in times.items()}
        rivals = [name for name in fp32_peers if name in times]
        fastest = min(rivals, key=medians.__getitem__) if rivals else None
        for name, timing in timings.items():
            base = timings.get(eager)
            rows.append(
                Row(
                    model, batch, stage, name,
                    rounds=len(times[name]),
                    median_ms=medians[name] / batch,
                    p95_ms=float(np.percentile(times[name], 95)) / batch,
                    times_eager=ratio(times.get(eager), times[name]),
                    times_fastest_fp32_peer=ratio(times[fastest] if fastest else None, times[name]),
                    peak_mib=timing.peak_mib,
                    peak_over_eager=timing.peak_mib / base.peak_mib if base else None,
                    above_empty_over_eager=(
                        timing.above_empty_mib / base.above_empty_mib if base else None
                    ),
                    dice=timing.dice if stage != "encoder" else None,
                    ceiling_share=encoder_share if (name, stage) == (own_int8, "encoder") else None,
                    engine=timing.engine,
                )
            )  # fmt: skip
    return rows


def ratio(others: Sequence[float] | None, own: Sequence[float]) -> float | None:
    """Return the median over the rounds of ``others`` divided by ``own``."""
    if others is None:
        return None
    return statistics.median(a / b for a, b in zip(others, own, strict=True))


HEADING = (
    f"{'row':<22}{'ms/image':>10}{'p95':>10}{'x eager':>9}{'x peer':>8}"
    f"{'peak MiB':>10}{'of eager':>9}{'above':>7}{'Dice':>8}{'ceiling':>9}"
)


def print_rows(rows: Sequence[Row]) -> None:
    """Print the rows of one cell, stage by stage."""
    for index, row in enumerate(rows):
        if index == 0 or rows[index - 1].stage != row.stage:
            print(f"\n{row.model}, batch {row.batch}, {row.stage}, {row.rounds} rounds\n{HEADING}")
        print(
            f"{row.row:<22}{row.median_ms:>10.1f}{row.p95_ms:>10.1f}"
            f"{_short(row.times_eager):>9}{_short(row.times_fastest_fp32_peer):>8}"
            f"{row.peak_mib:>10.0f}{_short(row.peak_over_eager):>9}"
            f"{_short(row.above_empty_over_eager):>7}"
            f"{_short(row.dice, 4):>8}{_short(row.ceiling_share):>9}",
            flush=True,
        )


def _short(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def plain(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return rows as JSON types, rounded to the precision of the clock."""
    return [
        {k: round(v, 4) if isinstance(v, float) else v for k, v in asdict(row).items()}
        for row in rows
    ]
