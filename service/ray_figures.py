"""Metrics of all replicas in one answer: a scrape reaches one replica, which returns those of all.

Each sample gets the label `replica`; names, other labels and values stay. So
`sum without (replica)` gives the metrics of the whole service.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

FORGET_AFTER_S = 20.0
"""Seconds after which a replica counts as dead; it reports its metrics at every health check, each
five seconds."""


class FigureTable:
    """The latest metrics of each replica, in one place."""

    def __init__(self) -> None:
        """Start without replicas."""
        self._told: dict[str, tuple[float, str]] = {}

    def tell(self, replica: str, text: str) -> None:
        """Store a replica's metrics.

        Args:
            replica: name of the replica.
            text: its metrics in Prometheus' text format.
        """
        self._told[replica] = (time.monotonic(), text)

    def told(self) -> dict[str, str]:
        """Return the metrics of replicas that reported recently."""
        oldest = time.monotonic() - FORGET_AFTER_S
        self._told = {name: one for name, one in self._told.items() if one[0] >= oldest}
        return {name: text for name, (_, text) in self._told.items()}


class _Together:
    """A collector for the replicas' metrics."""

    def __init__(self, told: Mapping[str, str]) -> None:
        self._told = told

    def collect(self) -> Iterator[Metric]:
        """Yield each metric once, with the samples of all replicas."""
        found: dict[str, Metric] = {}
        for replica, text in self._told.items():
            for family in text_string_to_metric_families(text):
                metric = found.setdefault(
                    family.name, Metric(family.name, family.documentation, family.type)
                )
                for sample in family.samples:
                    labels = {**sample.labels, "replica": replica}
                    metric.add_sample(sample.name, labels, sample.value)
        yield from found.values()


def together(told: Mapping[str, str]) -> bytes:
    """Return the metrics of several replicas as one text.

    Args:
        told: metrics in Prometheus' text format, by name of the replica.
    """
    registry = CollectorRegistry()
    registry.register(_Together(told))
    return generate_latest(registry)
