"""The metrics of a shadow model: how its masks compare with the served ones.

Its faults have separate metrics, so that none counts as the service's.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

DICE_BUCKETS = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 1.0)
AREA_BUCKETS = (0.5, 0.8, 0.9, 0.95, 0.98, 1.0, 1.02, 1.05, 1.1, 1.25, 2.0)

OUTCOMES = ("compared", "dropped", "not_ready", "not_comparable", "failed")
"""Outcomes of a chosen X-ray: `dropped` when the service is busy, `not_comparable` when the shadow
model cannot answer the same request."""


class ShadowMetrics:
    """Metrics of the shadow model; all stay at 0 without one.

    Attributes:
        compute_restarts: attempts to start its process again.
        self_test_failures: self tests that did not give its golden mask.
        device_fallback: loads on a GPU without the fused kernels.
        model_changes: restarts that found other files, by outcome.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register the metrics."""
        self._requests = Counter(
            "lungseg_shadow_requests", "X-rays chosen for the shadow model, by outcome.",
            ["outcome"], registry=registry,
        )  # fmt: skip
        for outcome in OUTCOMES:
            self._requests.labels(outcome)
        self._dice = Histogram(
            "lungseg_shadow_dice", "Dice of the shadow model's mask and the mask that was given.",
            buckets=DICE_BUCKETS, registry=registry,
        )  # fmt: skip
        self._area_ratio = Histogram(
            "lungseg_shadow_area_ratio", "Area of the shadow model's mask over the given one's.",
            buckets=AREA_BUCKETS, registry=registry,
        )  # fmt: skip
        self._models = Gauge(
            "lungseg_shadow_models", "Shadow models that are to be there.", registry=registry
        )
        self._ready = Gauge(
            "lungseg_shadow_models_ready", "Shadow models that gave their golden masks.",
            registry=registry,
        )  # fmt: skip
        self._info = Gauge(
            "lungseg_shadow_info", "The shadow model.", ["name", "version", "sha256", "device"],
            registry=registry,
        )  # fmt: skip
        self._memory = Gauge(
            "lungseg_shadow_resident_memory_bytes", "Main memory of the shadow model's process.",
            registry=registry,
        )  # fmt: skip
        faults = Counter(
            "lungseg_shadow_faults", "Restarts and failures of the shadow model.", ["kind"],
            registry=registry,
        )  # fmt: skip
        self.compute_restarts = faults.labels("restart")
        self.self_test_failures = faults.labels("self_test")
        self.device_fallback = faults.labels("device_fallback")
        self.model_changes = Counter(
            "lungseg_shadow_model_changes", "Restarts that found another shadow model.",
            ["outcome"], registry=registry,
        )  # fmt: skip

    def count_outcome(self, outcome: str) -> None:
        """Count the outcome of a chosen X-ray."""
        self._requests.labels(outcome).inc()

    def note_comparison(self, dice: float, area_ratio: float | None) -> None:
        """Record the comparison of two masks.

        Args:
            dice: Dice of the two, 0 to 1.
            area_ratio: the shadow's area over the given one's; None where the latter is empty.
        """
        self._dice.observe(dice)
        if area_ratio is not None:
            self._area_ratio.observe(area_ratio)

    def want_one(self) -> None:
        """Note that a shadow model is configured."""
        self._models.set(1)

    def show(self, *, is_ready: bool, resident_bytes: int) -> None:
        """Publish whether it is loaded, and the memory of its process."""
        self._ready.set(float(is_ready))
        self._memory.set(resident_bytes)

    def show_model(self, *, name: str, version: str, sha256: str, device: str) -> None:
        """Publish its identity."""
        self._info.clear()
        self._info.labels(name, version, sha256, device).set(1)
