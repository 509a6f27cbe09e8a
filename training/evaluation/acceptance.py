"""Acceptance of a model by a hospital: stated margins, intervals by patient, pass or fail.

A margin must be met by the whole 95 % interval: by its lower end for the mean, and by its upper end
for the share of patients with a poor mask. Patients count, because two X-rays of one patient have
less information than those of two. Few patients give wide intervals, which do not pass.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from training.data.dataset import DataRow
from training.errors import ConfigError
from training.evaluation.scores import BOXES, ImageScore
from training.evaluation.statistics import mean_interval


@dataclass(frozen=True)
class Margins:
    """A hospital's margins.

    Attributes:
        mean: Least mean Dice.
        poor: Dice below which a mask is poor.
        poor_share: Largest share of patients with a poor mask.
    """

    mean: float = 0.95
    poor: float = 0.90
    poor_share: float = 0.10

    def __post_init__(self) -> None:
        """Refuse margins outside 0 to 1."""
        for name in ("mean", "poor", "poor_share"):
            if not 0 < getattr(self, name) < 1:
                option = name.replace("_", "-")
                raise ConfigError(f"--{option} is {getattr(self, name)}; it must lie within 0..1")


@dataclass(frozen=True)
class Finding:
    """The result with one kind of box.

    Attributes:
        box: One of `BOXES`.
        mean: Mean over patients of the mean Dice of each.
        interval: Its 95 % interval; None for one patient.
        poor: Patients whose worst mask is poor.
        poor_share_at_most: Upper end of the 95 % interval of their share (Clopper and Pearson).
        mean_passes: Whether the interval meets the margin of the mean.
        poor_passes: Whether the interval meets the margin of poor masks.
    """

    box: str
    patients: int
    mean: float
    interval: tuple[float, float] | None
    poor: int
    poor_share_at_most: float
    mean_passes: bool
    poor_passes: bool

    @property
    def passes(self) -> bool:
        """Whether both margins are met."""
        return self.mean_passes and self.poor_passes


def judge(scores: Sequence[ImageScore], rows: Sequence[DataRow], margins: Margins) -> list[Finding]:
    """Compare scores with margins, for each kind of box."""
    patients = {row.name: row.group for row in rows}
    findings = []
    for box in BOXES:
        dices: defaultdict[str, list[float]] = defaultdict(list)
        for score in scores:
            if score.box == box:
                dices[patients[score.name]].append(score.dice)
        findings.append(_finding(box, list(dices.values()), margins))
    return findings


def _finding(box: str, dices: Sequence[Sequence[float]], margins: Margins) -> Finding:
    means = np.array([np.mean(values) for values in dices])
    interval = mean_interval(means)
    poor = sum(min(values) < margins.poor for values in dices)
    share = stats.binomtest(poor, len(dices)).proportion_ci(0.95, method="exact")
    return Finding(
        box=box,
        patients=len(dices),
        mean=float(means.mean()),
        interval=interval,
        poor=poor,
        poor_share_at_most=float(share.high),
        mean_passes=interval is not None and interval[0] >= margins.mean,
        poor_passes=float(share.high) <= margins.poor_share,
    )
