"""The node's Prometheus metrics, in their own registry."""

from __future__ import annotations

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from service.dicom_node.spool import Spool

SECONDS_BUCKETS = (0.1, 0.2, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0, 600.0, 3600.0)


class NodeMetrics:
    """All metrics of one node.

    Attributes:
        registry: registry that Prometheus scrapes.
        received: objects received, by status.
        skipped: objects not segmented, by reason.
        segmented: X-rays that a service answered.
        sent: objects that a destination confirmed.
        failures: failed attempts, by target.
        died: X-rays given up.
        delivery_seconds: seconds from the end of C-STORE until every destination had everything.
    """

    def __init__(self, spool: Spool) -> None:
        """Make the metrics; those of the spool are read at each scrape."""
        self.registry = CollectorRegistry()
        registry = self.registry
        self.received = Counter(
            "lungseg_node_received", "objects received by C-STORE", ["status"], registry=registry
        )
        self.skipped = Counter(
            "lungseg_node_skipped", "objects that are not segmented", ["reason"], registry=registry
        )
        self.segmented = Counter("lungseg_node_segmented", "X-rays segmented", registry=registry)
        self.sent = Counter(
            "lungseg_node_sent", "objects confirmed", ["destination", "kind"], registry=registry
        )
        self.failures = Counter(
            "lungseg_node_failures", "attempts that failed", ["target"], registry=registry
        )
        self.died = Counter("lungseg_node_died", "X-rays given up", registry=registry)
        self.delivery_seconds = Histogram(
            "lungseg_node_delivery_seconds",
            "from the end of C-STORE until everything is confirmed",
            buckets=SECONDS_BUCKETS,
            registry=registry,
        )
        self._gauge("waiting", "X-rays in the spool", lambda: len(spool.jobs()))
        self._gauge("oldest_waiting_seconds", "age of the oldest", lambda: _oldest_s(spool))
        self._gauge("dead_letters", "X-rays put aside", spool.dead_count)
        ProcessCollector(registry=self.registry)

    def _gauge(self, name: str, described: str, read: Callable[[], float]) -> None:
        gauge = Gauge(f"lungseg_node_{name}", described, registry=self.registry)
        gauge.set_function(read)


def _oldest_s(spool: Spool) -> float:
    jobs = spool.jobs()
    return max(0.0, time.time() - jobs[0].received_at) if jobs else 0.0
