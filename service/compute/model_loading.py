"""Loads the stored model and proves it by its golden mask before it may answer anybody."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from service.compute.compute_worker import SegmentationModel
from service.compute.cpu_allowance import model_threads
from service.compute.readiness import Readiness, SelfTestFigures
from service.metrics import Metrics
from service.requests.request_log import describe_error
from service.settings import Settings, default_model_folder

if TYPE_CHECKING:
    from model_store.predictor import Predictor

logger = logging.getLogger("service.model")

REFUSED_SENTENCE = "The model was refused; the service cannot answer."
SELF_TEST_FAILED_SENTENCE = (
    "The model failed its self test on this machine; it gives no masks, because they could be "
    "wrong. Send the request to another instance."
)


class SelfTestOutcome(Protocol):
    """What a self test tells; `model_store.self_test.SelfTestResult` has it."""

    @property
    def passed(self) -> bool:
        """Whether the golden mask came out."""

    @property
    def agreement(self) -> float:
        """Share of equal pixels, 0 to 1."""

    @property
    def seconds(self) -> float:
        """Duration of the forward pass."""


PredictorFactory = Callable[[Settings], SegmentationModel]
SelfTest = Callable[[SegmentationModel, Path], SelfTestOutcome]


def load_stored_predictor(settings: Settings) -> Predictor:
    """Loads the predictor that the settings name (imports torch, so call it off the event loop).

    Raises:
        ArtifactError: the folder holds no usable model.
    """
    import torch

    from model_store.predictor import Predictor

    torch.set_num_threads(settings.threads or model_threads())
    return Predictor.load(model_folder(settings), settings.device)


def stored_self_test(model: SegmentationModel, folder: Path) -> SelfTestOutcome:
    """Runs the golden-mask self test that lies in the model's folder."""
    from model_store.predictor import Predictor
    from model_store.self_test import run_self_test

    assert isinstance(model, Predictor)
    return run_self_test(model, folder)


def model_folder(settings: Settings) -> Path:
    """Returns the folder to serve: the one given, or the newest stored default model."""
    return settings.model if settings.model is not None else default_model_folder()


class ModelLoader:
    """Brings the model up, in the compute thread, and tells readiness how it went.

    Attributes:
        model: the loaded model once its self test passed, else None.
    """

    def __init__(
        self,
        settings: Settings,
        readiness: Readiness,
        metrics: Metrics,
        predictor_factory: PredictorFactory,
        self_test: SelfTest,
        on_refused: Callable[[Exception], None],
    ) -> None:
        """Keeps what it needs; nothing is loaded yet.

        Args:
            settings: names the model folder and the device.
            readiness: told about success and failure.
            metrics: shown the model.
            predictor_factory: loads a model.
            self_test: proves a model.
            on_refused: told the error when the model cannot be loaded at all.
        """
        self.model: SegmentationModel | None = None
        self._settings = settings
        self._readiness = readiness
        self._metrics = metrics
        self._predictor_factory = predictor_factory
        self._self_test = self_test
        self._on_refused = on_refused

    def load(self) -> SegmentationModel | None:
        """Loads and proves the model; None when it must not be used (readiness says why)."""
        try:
            model = self._predictor_factory(self._settings)
        except Exception as error:  # the border of the compute thread
            self._refuse(error)
            return None
        if not self._prove(model):
            return None
        info = model.info
        self._metrics.show_model(
            name=info.name,
            version=info.version,
            sha256=info.sha256,
            precision=info.precision,
            device=info.device,
        )
        self.model = model
        return model

    def recheck(self) -> None:
        """Repeats the self test after failures in a row; a failure closes the service."""
        if self.model is not None:
            self._prove(self.model)

    def _refuse(self, error: Exception) -> None:
        logger.error("model refused", extra={"fields": describe_error(error)})
        self._readiness.mark_broken(REFUSED_SENTENCE)
        self._on_refused(error)

    def _prove(self, model: SegmentationModel) -> bool:
        try:
            outcome = self._self_test(model, model_folder(self._settings))
        except ValueError as error:  # ArtifactError: the golden files are missing or damaged
            self._refuse(error)
            return False
        except Exception as error:  # the border of the compute thread
            logger.error("self test failed", extra={"fields": describe_error(error)})
            self._readiness.mark_broken(SELF_TEST_FAILED_SENTENCE)
            return False
        figures = {"agreement": outcome.agreement, "seconds": round(outcome.seconds, 3)}
        if not outcome.passed:
            logger.error("self test failed", extra={"fields": figures})
            self._readiness.mark_broken(SELF_TEST_FAILED_SENTENCE)
            return False
        logger.info("ready", extra={"fields": {**figures, "device": model.info.device}})
        self._readiness.mark_ready(SelfTestFigures(outcome.agreement, outcome.seconds))
        return True
