"""The Prometheus metrics of the service, in their own registry.

The registry is in the serving process. Figures of the compute process come with its answers or are
read from outside. So one scrape covers both, and no figure is lost or counted twice when the
compute process is replaced.

The registry is made with the app, so that two apps in one test process do not share counters. Label
values come from closed sets only (route templates, status codes, problem codes, stages, warning
codes): no caller can choose a label.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from model_store.stages import STAGES
from service.drift_counters import DriftCounters
from service.machine_watch import KINDS
from service.model_metrics import ModelMetrics
from service.request_record import RequestRecord, ServedName
from service.shadow_metrics import ShadowMetrics

SEGMENT_PATHS = ("/segment", "/v1/segment")

TIMED_STATUSES = (200, 500, 504)
"""Statuses whose duration is recorded; quick refusals would hide slow answers."""

DURATION_BUCKETS_S = (
    0.005,
    0.01,
    0.015,
    0.02,
    0.03,
    0.04,
    0.05,
    0.06,
    0.07,
    0.08,
    0.09,
    0.1,
    0.11,
    0.12,
    0.13,
    0.14,
    0.15,
    0.2,
    0.3,
    0.4,
    0.5,
    0.75,
    1.0,
    2.0,
    5.0,
    10.0,
)
"""5 ms to 10 s, dense from 10 to 150 ms, where one X-ray on a CPU or a GPU is expected."""

BATCH_BUCKETS = (1, 2, 3, 4, 6, 8, 12, 16, 32, 64)
PIXEL_BUCKETS = (65_536, 262_144, 1_048_576, 2_097_152, 4_194_304, 8_388_608, 16_777_216, 40e6)
AREA_RATIO_BUCKETS = (0.0, 0.01, 0.05, 0.10, 0.15, 0.20, 0.25, 0.30, 0.35, 0.40, 0.50, 0.75, 1.0)


CLOSING_REASONS = ("header_timeout", "answer_timeout", "room_made")
"""Reasons to close a connection: its caller is too slow, or another caller needs its place."""


class Metrics:
    """All metrics of one process.

    Attributes:
        registry: registry of `/metrics`.
        shadow: the figures of the shadow model.
        drift: counters of served X-rays against the range of training.
    """

    def __init__(
        self,
        *,
        queue_limit: int,
        queue_depth: Callable[[], int],
        queue_bytes: Callable[[], int] = lambda: 0,
    ) -> None:
        """Register every metric, so that each is visible (at zero) from the first scrape.

        Args:
            queue_limit: most requests that may wait.
            queue_depth: reads how many wait now; called at each scrape.
            queue_bytes: reads how many bytes the accepted requests hold.
        """
        registry = self.registry = CollectorRegistry()
        self.models = ModelMetrics(registry, DURATION_BUCKETS_S)
        self.shadow = ShadowMetrics(registry)
        self.requests = Counter(
            "lungseg_requests", "Answered requests.", ["route", "code"], registry=registry
        )
        self.requests.labels("unmatched", "400")  # requests that are not HTTP: 0 until the first
        self.request_duration = Histogram(
            "lungseg_request_duration_seconds",
            "Time from the first byte of a segmentation request to the end of its answer.",
            buckets=DURATION_BUCKETS_S,
            registry=registry,
        )
        self.stage_duration = Histogram(
            "lungseg_stage_duration_seconds",
            "Time of one pipeline stage of one request.",
            ["stage"],
            buckets=DURATION_BUCKETS_S,
            registry=registry,
        )
        for stage in STAGES:
            self.stage_duration.labels(stage)
        self.batch_size = Histogram(
            "lungseg_batch_size", "Requests in a model call.", buckets=BATCH_BUCKETS,
            registry=registry,
        )  # fmt: skip
        depth = Gauge("lungseg_queue_depth", "Requests that wait for the model.", registry=registry)
        depth.set_function(queue_depth)
        limit = Gauge(
            "lungseg_queue_limit", "Most requests that may wait for the model.", registry=registry
        )
        limit.set(queue_limit)
        self.inflight = Gauge(
            "lungseg_inflight", "Segmentation requests being worked on.", registry=registry
        )
        self.rejected = Counter(
            "lungseg_rejected", "Segmentation requests refused, by problem code.", ["reason"],
            registry=registry,
        )  # fmt: skip
        self.cancelled = Counter(
            "lungseg_cancelled", "Requests whose caller left before the answer.", registry=registry
        )
        held = Gauge(
            "lungseg_queue_bytes", "Bytes of uploads and images inside.", registry=registry
        )
        held.set_function(queue_bytes)
        self.compute_restarts = Counter(
            "lungseg_compute_restarts", "Attempts to start the compute process again.",
            registry=registry,
        )  # fmt: skip
        self.fronts = Gauge(
            "lungseg_fronts", "Processes that hold callers' connections, beside this one.",
            registry=registry,
        )  # fmt: skip
        self.fronts_lost = Counter(
            "lungseg_fronts_lost", "Such processes that ended, or hung and were ended.",
            registry=registry,
        )  # fmt: skip
        self.device_fallback = Counter(
            "lungseg_device_fallback", "Models loaded on a GPU without its fused kernels.",
            registry=registry,
        )  # fmt: skip
        self.machine_changes = Counter(
            "lungseg_machine_changes",
            "Jumps of the clock, changed quotas of processors, kills for want of memory.",
            ["kind"], registry=registry,
        )  # fmt: skip
        for kind in KINDS:
            self.machine_changes.labels(kind)
        self.model_reloads = Counter(
            "lungseg_model_reloads", "Changes of the model that the operator asked for.",
            ["outcome"], registry=registry,
        )  # fmt: skip
        for outcome in ("done", "refused"):
            self.model_reloads.labels(outcome)
        self.model_changes = Counter(
            "lungseg_model_changes", "Restarts that found another model than at the start.",
            ["outcome"], registry=registry,
        )  # fmt: skip
        for outcome in ("allowed", "refused"):
            self.model_changes.labels(outcome)
        self.self_test_failures = Counter(
            "lungseg_self_test_failures", "Self tests that did not give the golden mask.",
            registry=registry,
        )  # fmt: skip
        self.compute_memory = Gauge(
            "lungseg_compute_resident_memory_bytes", "Main memory of the compute process.",
            registry=registry,
        )  # fmt: skip
        self._worker_ends = Counter(
            "lungseg_image_workers_ended", "Image workers that ended, by reason.", ["reason"],
            registry=registry,
        )  # fmt: skip
        self.key_attempts_failed = Counter(
            "lungseg_key_attempts_failed", "Requests with an API key that is not valid.",
            registry=registry,
        )  # fmt: skip
        self.connections = Gauge(
            "lungseg_connections", "Connections that are open.", registry=registry
        )
        self.connections_limit = Gauge(
            "lungseg_connections_limit", "Most connections at a time, as descriptors allow.",
            registry=registry,
        )  # fmt: skip
        self._connections_closed = Counter(
            "lungseg_connections_closed", "Connections closed by the service, by reason.",
            ["reason"], registry=registry,
        )  # fmt: skip
        for reason in CLOSING_REASONS:
            self._connections_closed.labels(reason)
        self._unparsed = Counter(
            "lungseg_unparsed_requests", "Requests that are not HTTP.", registry=registry
        )
        self.log_lines_lost = Counter(
            "lungseg_log_lines_lost", "Lines of the log that could not be written.",
            registry=registry,
        )  # fmt: skip
        self.audit_entries = Counter(
            "lungseg_audit_entries", "Lines written to the audit log.", registry=registry
        )
        self.audit_lost = Counter(
            "lungseg_audit_lost", "Lines of the audit log that were given up.", registry=registry
        )
        self.audit_failing = Gauge(
            "lungseg_audit_failing", "1 while the audit log cannot be written.", registry=registry
        )
        self._audit_head = Gauge(
            "lungseg_audit_head", "Entries of the audit log at its seal of the latest hour.",
            ["seal"], registry=registry,
        )  # fmt: skip
        self._keys = {
            name: Gauge(f"lungseg_{name}", text, registry=registry)
            for name, text in (
                ("keys_valid", "API keys that are valid now."),
                ("keys_expiring_soon", "Valid API keys that end within 14 days."),
                ("key_file_problems", "Unusable lines of the key file, or no key in it at all."),
            )
        }
        self._gpu_memory: Gauge | None = None
        self.input_pixels = Histogram(
            "lungseg_input_pixels", "Pixels of a decoded image.", buckets=PIXEL_BUCKETS,
            registry=registry,
        )  # fmt: skip
        self.mask_area_ratio = Histogram(
            "lungseg_mask_area_ratio", "Share of the image that a mask covers.",
            buckets=AREA_RATIO_BUCKETS, registry=registry,
        )  # fmt: skip
        self.warnings = Counter(
            "lungseg_warnings", "Warnings given with an answer.", ["code"], registry=registry
        )
        self.drift = DriftCounters(registry)
        self._ready = Gauge(
            "lungseg_ready", "1 when the process answers with masks.", registry=registry
        )
        self._model_info = Gauge(
            "lungseg_model_info", "The loaded model.",
            ["name", "version", "sha256", "precision", "device"], registry=registry,
        )  # fmt: skip
        self._model_labels: dict[tuple[int, str], tuple[str, str, str, str, str]] = {}
        self._devices = Gauge(
            "lungseg_devices", "Devices that the model is to run on.", registry=registry
        )
        self._devices_ready = Gauge(
            "lungseg_devices_ready", "Devices whose model gave the golden mask.", registry=registry
        )
        ProcessCollector(registry=registry)

    def count_request(self, record: RequestRecord, status: int, *, has_left: bool) -> None:
        """Account for a finished request.

        Args:
            record: what the service noted of the request.
            status: HTTP status of the answer.
            has_left: whether its caller left before the answer.
        """
        seconds, model = record.elapsed_s(), record.requested_model
        self.count_answer(
            record.route, status, seconds, record.problem_code, model, has_left=has_left
        )

    def count_answer(
        self,
        route: str,
        status: int,
        seconds: float,
        problem_code: str | None,
        model: ServedName | None,
        *,
        has_left: bool,
    ) -> None:
        """Account for an answer, as `count_request` does.

        Args:
            route: template of the route.
            status: HTTP status.
            seconds: duration of the request.
            problem_code: code of the problem that was answered, or None.
            model: model of the request; None if unknown.
            has_left: whether the caller left before the answer.
        """
        if has_left:
            self.cancelled.inc()
        self.requests.labels(route, str(status)).inc()
        if route in SEGMENT_PATHS:
            duration_s = seconds if status in TIMED_STATUSES else None
            if duration_s is not None:
                self.request_duration.observe(duration_s)
            if model is not None:
                self.models.count_request(model.name, model.version, status, duration_s)
            if problem_code is not None:
                self.rejected.labels(problem_code).inc()

    def image_worker_ended(self, reason: str) -> None:
        """Count an image worker that ended."""
        self._worker_ends.labels(reason).inc()

    def connection_closed(self, reason: str) -> None:
        """Count a connection that the service closed."""
        self._connections_closed.labels(reason).inc()

    def count_unparsed(self) -> None:
        """Count a request that is not HTTP, also among the answers."""
        self._unparsed.inc()
        self.requests.labels("unmatched", "400").inc()

    def show_audit_head(self, seal: str, entries: int) -> None:
        """Publish the head of the audit log, which reveals lines cut off at its end."""
        self._audit_head.clear()
        self._audit_head.labels(seal).set(entries)

    def follow_keys(
        self,
        valid: Callable[[], int],
        expiring_soon: Callable[[], int],
        problems: Callable[[], int],
    ) -> None:
        """Read the gauges of API keys at each scrape."""
        self._keys["keys_valid"].set_function(valid)
        self._keys["keys_expiring_soon"].set_function(expiring_soon)
        self._keys["key_file_problems"].set_function(problems)

    def follow_readiness(self, is_ready: Callable[[], bool]) -> None:
        """Read `lungseg_ready` from the state of the process at each scrape."""
        self._ready.set_function(lambda: 1.0 if is_ready() else 0.0)

    def follow_devices(self, ready: Callable[[], int], known: Callable[[], int]) -> None:
        """Read the gauges of devices at each scrape."""
        self._devices.set_function(known)
        self._devices_ready.set_function(ready)

    def show_model(
        self, number: int, *, name: str, version: str, sha256: str, precision: str, device: str
    ) -> None:
        """Publish the model of a device, replacing its previous one.

        Args:
            number: index of the served model, from 0.
            name: as in the model's manifest.
            version: as in the model's manifest.
            sha256: digest of its weights.
            precision: precision of its products.
            device: where it runs.
        """
        labels = (name, version, sha256, precision, device)
        before = self._model_labels.get((number, device))
        if before is not None and before != labels:
            self._model_info.remove(*before)
        self._model_labels[number, device] = labels
        self._model_info.labels(*labels).set(1)

    def show_memory(self, resident_bytes: int, gpu_bytes: Mapping[str, int]) -> None:
        """Publish the compute process's memory, and the GPU's when it runs on one.

        Args:
            resident_bytes: main memory.
            gpu_bytes: GPU memory by kind; empty on a CPU.
        """
        self.compute_memory.set(resident_bytes)
        if gpu_bytes and self._gpu_memory is None:
            self._gpu_memory = Gauge(
                "lungseg_gpu_memory_bytes",
                "Memory of the GPU that the model runs on.",
                ["kind"],
                registry=self.registry,
            )
        for kind, size_bytes in gpu_bytes.items():
            assert self._gpu_memory is not None
            self._gpu_memory.labels(kind).set(size_bytes)
