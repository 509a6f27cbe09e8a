"""Compare the X-rays of one period with earlier ones and with the model's training X-rays.

No hospital resembles the mixture of the training data, so there are two comparisons. Are its X-rays
outside the range of training, and do they differ from its own of earlier weeks? The alerts in
`deploy/prometheus/rules.yml` make the same comparisons with the same limits.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from service.trained_range import QUANTITIES, WARNED, TrainedRange

MOST_OUTSIDE = 0.2
"""Least share of X-rays outside the range of training that counts as a difference;
`benchmarks.quality.drift_alarms` prints it for ordinary hospitals and for X-rays that differ."""

MOST_SHIFT = 0.25
"""Least distance from earlier weeks that counts as a difference: the largest difference between
shares below a quantile, a Kolmogorov-Smirnov distance at seven points."""

LEAST_XRAYS = 100
"""Fewer X-rays in a period are not judged, because chance alone gives such distances."""


@dataclass
class Period:
    """The numbers of the X-rays of some days.

    Attributes:
        numbers: values by names of `QUANTITIES`, and 1 or 0 for `WARNED`.
        warnings: answers with each warning code.
    """

    numbers: dict[str, list[float]] = field(
        default_factory=lambda: {name: [] for name in (*QUANTITIES, WARNED)}
    )
    warnings: Counter[str] = field(default_factory=Counter)
    answers: int = 0

    def take(self, entry: Mapping[str, Any], *, is_warned: bool, is_whole_image: bool) -> None:
        """Add an answered request.

        Args:
            entry: entry of the audit log.
            is_warned: whether it has a warning to act on.
            is_whole_image: whether its lungs can be compared.
        """
        self.answers += 1
        self.warnings.update(entry["warnings"])
        image = entry.get("image")
        if image is not None:
            self.numbers["grey_level"].append(image["grey_level"])
            self.numbers["pixels"].append(image["width"] * image["height"])
        if is_whole_image:
            self.numbers[WARNED].append(float(is_warned))
            for found in entry.get("lungs_found", ()):
                self.numbers["confidence"].append(found["confidence"])
                self.numbers["area_ratio"].append(found["area_ratio"])


@dataclass(frozen=True)
class Compared:
    """One quantity in one period.

    Attributes:
        count: X-rays in the period.
        median: median of the period; for `WARNED` the share.
        median_before: the same of the earlier time; None without X-rays.
        median_trained: median of the training X-rays; None if the manifest has none.
        outside: share outside the range of training, or of answers with warnings; None if unknown.
        shift: distance from the earlier time; None if either has too few X-rays.
    """

    name: str
    count: int
    median: float | None
    median_before: float | None
    median_trained: float | None
    outside: float | None
    shift: float | None

    @property
    def differs_from_training(self) -> bool:
        """Whether it differs from training."""
        is_enough = self.count >= LEAST_XRAYS
        return is_enough and self.outside is not None and self.outside > MOST_OUTSIDE

    @property
    def differs_from_before(self) -> bool:
        """Whether it differs from the earlier time."""
        return self.shift is not None and self.shift > MOST_SHIFT


def compared(now: Period, before: Period, ranges: Mapping[str, TrainedRange]) -> list[Compared]:
    """Compare each quantity.

    Args:
        now: period to judge.
        before: earlier time.
        ranges: ranges of the training X-rays.
    """
    return [
        _compared(name, now.numbers[name], before.numbers[name], ranges.get(name))
        for name in (*QUANTITIES, WARNED)
    ]


def _compared(
    name: str, now: Sequence[float], before: Sequence[float], known: TrainedRange | None
) -> Compared:
    middle = statistics.mean if name == WARNED else statistics.median
    outside = _mean(known.is_outside(one) for one in now) if known is not None else None
    if name == WARNED:
        outside = _mean(bool(one) for one in now)
    return Compared(
        name=name,
        count=len(now),
        median=middle(now) if now else None,
        median_before=middle(before) if before else None,
        median_trained=None if known is None else dict(known.pairs()).get("0.5"),
        outside=outside,
        shift=shift_of(now, before, known),
    )


def shift_of(
    now: Sequence[float], before: Sequence[float], known: TrainedRange | None
) -> float | None:
    """Return the distance of two periods; None if one has too few X-rays.

    Args:
        now: numbers of one period.
        before: numbers of the other.
        known: range whose quantiles divide the values; None for numbers that are 0 or 1.
    """
    if min(len(now), len(before)) < LEAST_XRAYS:
        return None
    edges = (0.5,) if known is None else known.edges
    distances = [abs(_below(now, edge) - _below(before, edge)) for edge in edges]
    return max(distances)


def _below(values: Sequence[float], edge: float) -> float:
    return sum(value < edge for value in values) / len(values)


def _mean(flags: Iterable[bool]) -> float | None:
    found = list(flags)
    return sum(found) / len(found) if found else None
