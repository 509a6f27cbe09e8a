"""Loads the model, proves it by its golden mask, and replaces it when it is lost."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable
from typing import Protocol

from prometheus_client import Counter

from model_store.model_info import ModelInfo
from model_store.self_test_result import SelfTestResult
from service.compute.compute_child import ComputeChild
from service.compute.early_start import STORED_MODEL, EarlyStart
from service.compute.model_handle import (
    LOST_SENTENCE,
    Memory,
    ModelRefusedError,
    SegmentationModel,
)
from service.compute.readiness import ReadinessSink
from service.compute.started_model import StartedModel
from service.compute.visible_gpus import visible_gpus
from service.cpu_allowance import model_threads
from service.errors import ComputeLost, ServiceError
from service.logging import describe_error
from service.settings import Settings

logger = logging.getLogger("service.model")

REFUSED_SENTENCE = "The model was refused; the service cannot answer."
SELF_TEST_FAILED_SENTENCE = (
    "The model failed its self test on this machine; it gives no masks, because they could be "
    "wrong. Send the request to another instance."
)
RECOVERING_SENTENCE = (
    "The compute process was lost or its self test failed; a new one is being started."
)
CHANGED_SENTENCE = (
    "The files of the model are not those of the start any more; the service gives no masks of "
    "another model than the one it was started with."
)

PredictorFactory = Callable[[Settings], SegmentationModel]


def start_compute_child(
    settings: Settings, early: EarlyStart | None = None, source: str = STORED_MODEL
) -> ComputeChild:
    """Start a compute process with the stored model.

    With several GPUs each device has its number in its name.

    Args:
        settings: settings that name model and device.
        early: a process started earlier, which the first caller uses.
        source: `module:function` that loads the model in the process.

    Raises:
        ModelRefusedError: the folder has no usable model, or the device is absent.
        ComputeLost: the process ended before the model was loaded.
    """
    child = ComputeChild(settings, source, early)
    if child.info.device == "cuda" and visible_gpus() > 1:
        child.info = dataclasses.replace(child.info, device="cuda:0")
    return child


class FaultMetrics(Protocol):
    """Counters of a model's faults; `service.metrics.Metrics` implements them."""

    @property
    def compute_restarts(self) -> Counter:
        """Attempts to start its process again."""

    @property
    def self_test_failures(self) -> Counter:
        """Self tests that did not give its golden mask."""

    @property
    def device_fallback(self) -> Counter:
        """Loads on a GPU without the fused kernels."""

    @property
    def model_changes(self) -> Counter:
        """Restarts that found other files, by outcome."""


class ModelLoader:
    """Starts and proves models, in the compute thread, and reports to readiness.

    Attributes:
        model: the model in use once its self test passed, else None.
    """

    def __init__(
        self,
        settings: Settings,
        readiness: ReadinessSink,
        metrics: FaultMetrics,
        predictor_factory: PredictorFactory,
        on_refused: Callable[[Exception], None],
        started: StartedModel,
        log: logging.Logger = logger,
    ) -> None:
        """Keep the parts; nothing is loaded yet.

        Args:
            settings: settings that name the model folder and the device.
            readiness: gets success and failure.
            metrics: counts restarts and faults.
            predictor_factory: loads a model.
            on_refused: called with the error when the first model cannot be loaded at all.
            started: the model of the service's start, shared by all devices.
            log: logger for what happens.
        """
        self._log = log
        self.model: SegmentationModel | None = None
        self._settings = settings
        self._readiness = readiness
        self._metrics = metrics
        self._predictor_factory = predictor_factory
        self._on_refused = on_refused
        self._started = started

    def load(self) -> SegmentationModel | None:
        """Load and prove the first model.

        Returns:
            The model; None if there will never be one (readiness says why).

        Raises:
            ComputeLost: the compute process died, the forward pass raised, or another device now
                serves another model; a later attempt may succeed.
        """
        model: SegmentationModel | None = None
        try:
            model = self._predictor_factory(self._settings)
            outcome = model.self_test()
        except (ModelRefusedError, ValueError) as error:
            _end(model)
            self._refuse(error)
            return None
        except Exception as error:  # the border of the compute thread
            _end(model)
            self._log.error("start failed", extra={"fields": describe_error(error)})
            raise ComputeLost(LOST_SENTENCE) from None
        if not outcome.passed:
            _end(model)
            self._note_failed(outcome)
            self._readiness.mark_broken(SELF_TEST_FAILED_SENTENCE)
            return None
        if not self._is_served(model.info):
            _end(model)
            raise ComputeLost(CHANGED_SENTENCE)
        return self._use(model, outcome)

    def recheck(self) -> bool:
        """Repeat the self test; False closes the service until `reload` succeeds."""
        if self.model is None:
            return False
        try:
            outcome = self.model.self_test()
        except Exception as error:  # the border of the compute thread
            self._metrics.self_test_failures.inc()
            self._log.error("self test failed", extra={"fields": describe_error(error)})
            return False
        if not outcome.passed:
            self._note_failed(outcome)
        return outcome.passed

    def lose(self) -> None:
        """Close the service and end the model, which is gone or no longer usable."""
        fields = {"device": self._settings.device}
        self._log.error("model lost", extra={"fields": fields})
        self._readiness.mark_recovering(RECOVERING_SENTENCE)
        self.close()

    def reload(self) -> SegmentationModel | None:
        """Start and prove a new model; None if that failed."""
        self._metrics.compute_restarts.inc()
        began = time.perf_counter()
        model: SegmentationModel | None = None
        try:
            model = self._predictor_factory(self._settings)
            if not self._may_follow(model.info):
                _end(model)
                return None
            outcome = model.self_test()
        except Exception as error:  # the border: the next attempt may succeed
            sentence = str(error) if isinstance(error, ModelRefusedError | ServiceError) else ""
            fields = {**describe_error(error), "sentence": sentence}
            self._log.error("restart failed", extra={"fields": fields})
            _end(model)
            return None
        if not outcome.passed:
            self._note_failed(outcome)
        if not outcome.passed or not self._is_served(model.info):
            _end(model)
            return None
        seconds = round(time.perf_counter() - began, 2)
        self._log.info("recovered", extra={"fields": {"seconds": seconds}})
        return self._use(model, outcome)

    def memory(self) -> Memory:
        """Memory of the compute process, zeros while there is none."""
        model = self.model  # read once: the compute thread may remove it
        return Memory() if model is None else model.memory

    def close(self) -> None:
        """End the model."""
        model, self.model = self.model, None
        _end(model)

    def _is_served(self, info: ModelInfo) -> bool:
        """Return whether a proven model is the one that all devices serve; the first decides."""
        return self._started.claim(info) or self._may_follow(info)

    def _may_follow(self, info: ModelInfo) -> bool:
        """Return whether a new process may serve this model; log any change as an error."""
        before = self._started.other_than(info)
        if before is None:
            return True
        is_allowed = self._settings.allow_model_change
        fields = {
            "model": info.name, "version": info.version, "sha256": info.sha256,
            "model_before": before.name, "version_before": before.version,
            "sha256_before": before.sha256,
        }  # fmt: skip
        event = "model changed" if is_allowed else "model change refused"
        self._log.error(event, extra={"fields": fields})
        if not is_allowed:
            self._readiness.mark_recovering(CHANGED_SENTENCE)
        self._metrics.model_changes.labels("allowed" if is_allowed else "refused").inc()
        if is_allowed:
            self._started.replace(info)
        return is_allowed

    def _use(self, model: SegmentationModel, outcome: SelfTestResult) -> SegmentationModel:
        info = model.info
        self.model = model
        if info.fallback_reason is not None:
            self._metrics.device_fallback.inc()
            self._log.warning("device fallback", extra={"fields": {"reason": info.fallback_reason}})
        figures = {"agreement": outcome.agreement, "seconds": round(outcome.seconds, 3)}
        identity = {"model": info.name, "version": info.version, "sha256": info.sha256}
        place = {"engine": info.engine, "device": info.device, "threads": self.threads}
        self._log.info("ready", extra={"fields": {**identity, **place, **figures}})
        self._readiness.mark_ready(outcome)
        return model

    @property
    def threads(self) -> int:
        """CPU threads of the model."""
        return self._settings.threads or model_threads()

    def _note_failed(self, outcome: SelfTestResult) -> None:
        self._metrics.self_test_failures.inc()
        figures = {"agreement": outcome.agreement, "seconds": round(outcome.seconds, 3)}
        self._log.error("self test failed", extra={"fields": figures})

    def _refuse(self, error: Exception) -> None:
        self._log.error("model refused", extra={"fields": describe_error(error)})
        self._readiness.mark_broken(REFUSED_SENTENCE)
        self._on_refused(error)


def _end(model: SegmentationModel | None) -> None:
    if model is not None:
        model.close()
