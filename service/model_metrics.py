"""The metrics of each served model, beside those of the whole service.

Their names differ from the service's metrics, which keep their names and labels. The labels `name`
and `version` are those of served models.
"""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class ModelMetrics:
    """Figures by the name and version of a model."""

    def __init__(self, registry: CollectorRegistry, duration_buckets_s: Sequence[float]) -> None:
        """Register the metrics.

        Args:
            registry: registry for the metrics.
            duration_buckets_s: bounds of the histogram of durations.
        """
        labels = ["name", "version"]
        self._requests = Counter(
            "lungseg_model_requests", "Segmentation requests answered, by the model asked.",
            [*labels, "code"], registry=registry,
        )  # fmt: skip
        self._duration = Histogram(
            "lungseg_model_request_duration_seconds",
            "Time from the first byte of a segmentation request to the end of its answer.",
            labels, buckets=duration_buckets_s, registry=registry,
        )  # fmt: skip
        self._warnings = Counter(
            "lungseg_model_warnings", "Warnings given with a model's answers.",
            [*labels, "code"], registry=registry,
        )  # fmt: skip
        self._ready = Gauge(
            "lungseg_model_ready", "1 while the model gives masks.", labels, registry=registry
        )
        self._memory = Gauge(
            "lungseg_model_resident_memory_bytes", "Main memory of the model's processes.",
            labels, registry=registry,
        )  # fmt: skip

    def count_request(self, name: str, version: str, status: int, duration_s: float | None) -> None:
        """Count an answered request.

        Args:
            name: name of the model.
            version: version of the model.
            status: HTTP status of the answer.
            duration_s: seconds of the request; None if they do not concern the model.
        """
        self._requests.labels(name, version, str(status)).inc()
        if duration_s is not None:
            self._duration.labels(name, version).observe(duration_s)

    def count_warning(self, name: str, version: str, code: str) -> None:
        """Count a warning given with an answer."""
        self._warnings.labels(name, version, code).inc()

    def forget_states(self) -> None:
        """Remove the states of models; each scrape shows the served ones again."""
        self._ready.clear()
        self._memory.clear()

    def show_state(self, name: str, version: str, *, is_ready: bool, resident_bytes: int) -> None:
        """Publish whether a model gives masks, and the memory of its processes."""
        self._ready.labels(name, version).set(float(is_ready))
        self._memory.labels(name, version).set(resident_bytes)
