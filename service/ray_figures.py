"""Metrics of all replicas in one answer: a scrape reaches one replica, which collects from all.

Each sample gets the label `replica`; names, other labels and values stay, so that
`sum without (replica)` adds up what one process would have counted.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

FORGET_AFTER_S = 20.0
"""A replica tells its figures at every health check, each five seconds; a dead one no more."""


class FigureTable:
    """The last figures of each replica; one for all of them."""

    def __init__(self) -> None:
        """Know no replica."""
        self._told: dict[str, tuple[float, str]] = {}

    def tell(self, replica: str, text: str) -> None:
        """Keep a replica's figures.

        Args:
            replica: its name.
            text: its figures in Prometheus' text format.
        """
        self._told[replica] = (time.monotonic(), text)

    def told(self) -> dict[str, str]:
        """Return the figures of the replicas that were heard of lately."""
        oldest = time.monotonic() - FORGET_AFTER_S
        self._told = {name: one for name, one in self._told.items() if one[0] >= oldest}
        return {name: text for name, (_, text) in self._told.items()}


class _Together:
    """A collector of what replicas told."""

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
    """Return the figures of several replicas as one text.

    Args:
        told: Prometheus' text format by name of the replica.
    """
    registry = CollectorRegistry()
    registry.register(_Together(told))
    return generate_latest(registry)
