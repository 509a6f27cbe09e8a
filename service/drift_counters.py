"""Metrics that count served X-rays by the position of their numbers in the range of training.

They are counters and not a window: Prometheus computes the increase over a week, over all replicas
and across restarts. They increment plain integers, because each X-ray makes up to thirty
increments.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from service.trained_range import WARNED, QuantilesOfTraining, TrainedRange, trained_ranges

Distributions = Mapping[str, QuantilesOfTraining]
_LABELS = ("name", "version", "quantity")


@dataclass(frozen=True)
class ComparedModel:
    """A model whose training range X-rays are compared with."""

    name: str
    version: str
    distributions: Distributions  # distributions of its training X-rays, by its manifest


class DriftCounters(Collector):
    """Counters of served X-rays against the range of training; for the event loop's thread only."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Start at zero, and publish in a registry."""
        self._compared: Counter[tuple[str, str, str]] = Counter()
        self._outside: Counter[tuple[str, str, str]] = Counter()
        self._below: Counter[tuple[str, str, str, str]] = Counter()
        self._ranges: dict[int, tuple[object, dict[str, TrainedRange]]] = {}
        registry.register(self)

    def show(self, model: ComparedModel) -> None:
        """Publish zeros for each quantity in a model's manifest."""
        ranges = self._ranges_of(model.distributions)
        for quantity in (*ranges, WARNED):
            labels = (model.name, model.version, quantity)
            self._compared.setdefault(labels, 0)
            self._outside.setdefault(labels, 0)
            for share in ranges[quantity].shares if quantity in ranges else ():
                self._below.setdefault((*labels, share), 0)

    def note(self, numbers: Mapping[str, float], model: ComparedModel) -> None:
        """Count one X-ray.

        Args:
            numbers: its known values, by names of `service.trained_range.QUANTITIES`.
            model: the model that answered.
        """
        ranges = self._ranges_of(model.distributions)
        for quantity, value in numbers.items():
            known = ranges.get(quantity)
            if known is None:
                continue
            labels = (model.name, model.version, quantity)
            self._compared[labels] += 1
            self._outside[labels] += known.is_outside(value)
            for index in known.edges_above(value):
                self._below[*labels, known.shares[index]] += 1

    def note_warned(self, model: ComparedModel, *, is_warned: bool) -> None:
        """Count one answer, and whether it has a warning to act on."""
        self._compared[model.name, model.version, WARNED] += 1
        self._outside[model.name, model.version, WARNED] += is_warned

    def describe(self) -> Iterable[CounterMetricFamily]:
        """Return the metrics' names, for the registry."""
        return self.collect()

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Return the counts, for a scrape."""
        compared = CounterMetricFamily(
            "lungseg_drift_compared", "X-rays compared with those that trained.", labels=_LABELS
        )
        outside = CounterMetricFamily(
            "lungseg_drift_outside",
            "X-rays beyond what 98 % of those that trained have, and answers warned of.",
            labels=_LABELS,
        )
        below = CounterMetricFamily(
            "lungseg_drift_below", "X-rays below a quantile of those that trained.",
            labels=[*_LABELS, "quantile"],
        )  # fmt: skip
        for labels, count in list(self._compared.items()):
            compared.add_metric(labels, count)
            outside.add_metric(labels, self._outside[labels])
        for of_quantile, count in list(self._below.items()):
            below.add_metric(of_quantile, count)
        yield from (compared, outside, below)

    def _ranges_of(self, distributions: Distributions) -> dict[str, TrainedRange]:
        """Return the ranges of a manifest, computed once for each."""
        known = self._ranges.get(id(distributions))
        if known is None or known[0] is not distributions:  # kept, so its id stays unique
            known = self._ranges[id(distributions)] = distributions, trained_ranges(distributions)
        return known[1]
