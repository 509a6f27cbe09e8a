"""One model with what runs it: its loader, its queue, its thread, its process."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from service.compute.compute_worker import ComputeWorker, Job
from service.compute.model_handle import Memory, SegmentationModel
from service.compute.model_loading import ModelLoader, PredictorFactory
from service.compute.network_data import NetworkInput
from service.compute.readiness import ReadinessSink
from service.metrics import Metrics
from service.settings import Settings


class ModelHost:
    """Runs one model; requests are submitted to it.

    Attributes:
        loader: brings the model up, and holds it once it is proven.
        worker: runs it.
    """

    def __init__(
        self,
        settings: Settings,
        readiness: ReadinessSink,
        metrics: Metrics,
        predictor_factory: PredictorFactory,
        *,
        on_batch: Callable[[int, float], None],
        on_refused: Callable[[Exception], None],
    ) -> None:
        """Builds the parts; nothing runs before `start`.

        Args:
            settings: name the model's folder and the device.
            readiness: told how the model is.
            metrics: shown the model and its restarts.
            predictor_factory: loads the model.
            on_batch: told size and seconds of each batch.
            on_refused: told why the model cannot be loaded at all.
        """
        self.loader = ModelLoader(settings, readiness, metrics, predictor_factory, on_refused)
        self.worker = ComputeWorker(
            source=self.loader,
            max_batch=settings.max_batch,
            on_batch=on_batch,
            batch_window_s=settings.batch_window_s,
            recheck_interval_s=settings.recheck_interval_s,
        )

    @property
    def model(self) -> SegmentationModel | None:
        """The model, once it is proven."""
        return self.loader.model

    @property
    def models(self) -> Sequence[SegmentationModel]:
        """The model of each process that has a proven one."""
        model = self.loader.model
        return [] if model is None else [model]

    def start(self) -> None:
        """Starts the thread, which loads the model first."""
        self.worker.start()

    def submit(self, given: NetworkInput, on_taken: Callable[[], None]) -> Job:
        """Queues a request; raises as `ComputeWorker.submit`."""
        return self.worker.submit(given, on_taken)

    def withdraw(self, job: Job) -> None:
        """Takes a job out of the queue when its caller no longer waits."""
        self.worker.withdraw(job)

    def memory(self) -> Memory:
        """Memory of the compute process."""
        return self.loader.memory()

    def close(self, timeout_s: float) -> None:
        """Refuses what waits, lets the running call end within `timeout_s`, ends the process."""
        self.worker.close(timeout_s)
        self.loader.close()
