"""Compares the X-rays of one period with those before it and with those that trained the model.

No hospital looks like the mixture that trained the model, so two comparisons are made. Do its
X-rays lie outside the range of training, and do they differ from its own of the weeks before? The
alerts in `deploy/prometheus/rules.yml` make the same comparisons by the same limits.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from service.trained_range import QUANTITIES, WARNED, TrainedRange

MOST_OUTSIDE = 0.2
"""Share outside of what trained from which on X-rays differ from it;
`benchmarks.quality.drift_alarms` prints it for healthy hospitals and for X-rays that differ."""

MOST_SHIFT = 0.25
"""Distance to the weeks before from which on X-rays differ from them: the largest difference
between shares below a quantile, a Kolmogorov-Smirnov distance at seven points."""

LEAST_XRAYS = 100
"""With fewer in a period nothing is said: chance alone makes such distances."""


@dataclass
class Period:
    """What was seen in some days.

    Attributes:
        numbers: by names of `QUANTITIES`, and 1 or 0 for `WARNED`.
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
            entry: of the audit log.
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
    """One number of one period.

    Attributes:
        count: X-rays in the period.
        median: of the period; of `WARNED` the share.
        median_before: of the time before; None without any.
        median_trained: over the X-rays that trained; None where the manifest does not say.
        outside: share outside of what trained, or of answers warned of; None where unknown.
        shift: distance to the time before; None where either is too short.
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
        """Whether it lies outside of what trained."""
        is_enough = self.count >= LEAST_XRAYS
        return is_enough and self.outside is not None and self.outside > MOST_OUTSIDE

    @property
    def differs_from_before(self) -> bool:
        """Whether it is not as it was."""
        return self.shift is not None and self.shift > MOST_SHIFT


def compared(now: Period, before: Period, ranges: Mapping[str, TrainedRange]) -> list[Compared]:
    """Compare each number.

    Args:
        now: the period in question.
        before: the time before it.
        ranges: what trained the model.
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
    """Return the distance of two periods; None where one of them is too short.

    Args:
        now: numbers of one period.
        before: of the other.
        known: at whose edges their shares are compared; None for numbers that are 0 or 1.
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
