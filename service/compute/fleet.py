"""All devices that run the network, one compute process each; a request goes to the least busy one.

Each device has its own queue, thread and process (`compute_worker`, `model_loading`), so a fault of
one does not affect the others. Its requests are refused with the advice to retry, later ones go to
the others, and it starts again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from model_store.model_info import ModelInfo
from service.caller_turns import SERVICE
from service.compute.compute_job import Job
from service.compute.compute_worker import ComputeWorker
from service.compute.cpu_turns import CpuTurns
from service.compute.fleet_readiness import FleetReadiness
from service.compute.model_handle import Memory, SegmentationModel
from service.compute.model_loading import FaultMetrics, ModelLoader, PredictorFactory
from service.compute.network_data import NetworkInput
from service.compute.readiness import ReadinessSink
from service.compute.started_model import StartedModel
from service.compute.visible_gpus import visible_gpus
from service.settings import ALL_DEVICES, Settings

model_logger = logging.getLogger("service.model")


class Device:
    """One device: its model, its queue, and its number of requests."""

    def __init__(self, loader: ModelLoader, worker: ComputeWorker) -> None:
        """Start without requests."""
        self.loader = loader
        self.worker = worker
        self._lock = threading.Lock()
        self._jobs = 0

    @property
    def jobs(self) -> int:
        """Requests that wait here or are being computed."""
        return self._jobs

    def submit(self, given: NetworkInput, on_taken: Callable[[], None], caller: str) -> Job:
        """Queue a request here; raise as `ComputeWorker.submit`."""
        job = self.worker.submit(given, on_taken, caller)
        self._count(1)
        job.future.add_done_callback(lambda _: self._count(-1))
        return job

    def _count(self, change: int) -> None:
        with self._lock:
            self._jobs += change


class ComputeFleet:
    """The devices, and the choice of one for each request.

    Attributes:
        devices: the devices known so far; further GPUs are found while the first model loads.
    """

    def __init__(
        self,
        settings: Settings,
        readiness: ReadinessSink,
        metrics: FaultMetrics,
        predictor_factory: PredictorFactory,
        *,
        on_batch: Callable[[int, float], None],
        on_refused: Callable[[Exception], None],
        turns: CpuTurns | None = None,
        takes_all_gpus: bool = True,
        log: logging.Logger = model_logger,
    ) -> None:
        """Build the devices that the settings name; nothing runs before `start`.

        Args:
            settings: settings that name the devices.
            readiness: gets the state of all devices together.
            metrics: counts restarts and faults.
            predictor_factory: loads a model on the device in its settings.
            on_batch: called with size and seconds of each batch.
            on_refused: told the error when no model can be loaded at all.
            turns: turns shared with the fleets of other models; None for a single model.
            takes_all_gpus: whether to look for further GPUs, if the settings allow it.
            log: logger for the state of the models.
        """
        self._takes_all_gpus = takes_all_gpus
        self._log = log
        self._turns = turns
        self.devices: list[Device] = []
        self._settings = settings
        self._readiness = FleetReadiness(readiness)
        self._metrics = metrics
        self._predictor_factory = predictor_factory
        self._on_batch = on_batch
        self._on_refused = on_refused
        self._started = StartedModel()
        self._lock = threading.Lock()
        self._refusals = 0
        self._is_closed = False
        for name in settings.device_names:
            self._add(name)

    @property
    def model(self) -> SegmentationModel | None:
        """A proven model; None while there is none."""
        return next(iter(self.models), None)

    @property
    def models(self) -> Sequence[SegmentationModel]:
        """The proven model of each device that has one."""
        found = [device.loader.model for device in self.devices]  # threads may remove them
        return [model for model in found if model is not None]

    @property
    def identity(self) -> ModelInfo | None:
        """The model that these devices serve, even while it is lost; None before the first."""
        return self._started.info

    @property
    def ready_devices(self) -> int:
        """Devices whose model is proven."""
        return self._readiness.ready_devices

    @property
    def threads(self) -> int:
        """CPU threads of each model."""
        return self.devices[0].loader.threads

    def start(self) -> None:
        """Start a thread for each device, which loads its model first."""
        for device in self.devices:
            device.worker.start()
        finds_more = self._settings.devices == ALL_DEVICES and self._takes_all_gpus
        if finds_more and self._settings.device in ("auto", "cuda"):
            threading.Thread(target=self._find_more, name="gpus", daemon=True).start()

    def submit(
        self, given: NetworkInput, on_taken: Callable[[], None], caller: str = SERVICE
    ) -> Job:
        """Queue a request at the proven device with the fewest requests.

        Args:
            given: the prepared image with its boxes.
            on_taken: called when a model starts on it.
            caller: whose turns it uses.

        Raises:
            Draining: the fleet is closed.
        """
        proven = [device for device in self.devices if device.loader.model is not None]
        chosen = min(proven or self.devices, key=lambda device: device.jobs)
        return chosen.submit(given, on_taken, caller)

    def withdraw(self, job: Job) -> None:
        """Remove a job from its queue when its caller no longer waits."""
        if not job.future.done():
            for device in self.devices:
                device.worker.withdraw(job)

    def memory(self) -> Memory:
        """Memory of all compute processes together."""
        each = [device.loader.memory() for device in self.devices]
        kinds = {kind for one in each for kind in one.gpu_bytes}
        return Memory(
            sum(one.resident_bytes for one in each),
            {kind: sum(one.gpu_bytes.get(kind, 0) for one in each) for kind in sorted(kinds)},
        )

    def close(self, timeout_s: float) -> None:
        """Refuse waiting requests, let running calls end within `timeout_s`, end all processes."""
        with self._lock:
            self._is_closed = True
        until = time.monotonic() + timeout_s
        for device in self.devices:
            device.worker.close(max(0.0, until - time.monotonic()))
        for device in self.devices:
            device.loader.close()

    def _add(self, name: str) -> Device:
        settings = self._settings.model_copy(update={"device": name})
        loader = ModelLoader(
            settings,
            self._readiness.add_device(),
            self._metrics,
            self._predictor_factory,
            self._note_refused,
            self._started,
            self._log,
        )
        worker = ComputeWorker(
            source=loader,
            max_batch=settings.max_batch,
            on_batch=self._on_batch,
            batch_window_s=settings.batch_window_s,
            recheck_interval_s=settings.recheck_interval_s,
            turns=self._turns,
        )
        device = Device(loader, worker)
        self.devices.append(device)
        return device

    def _find_more(self) -> None:
        """Add the other GPUs, while the first one's model loads."""
        for number in range(1, visible_gpus()):
            with self._lock:
                if self._is_closed:
                    return
                device = self._add(f"cuda:{number}")
            device.worker.start()

    def _note_refused(self, error: Exception) -> None:
        """Report a refusal that concerns the whole service: of all devices, or of a setting."""
        with self._lock:
            self._refusals += 1
            is_last = self._refusals >= len(self.devices)
        if is_last or getattr(error, "is_setting", False):
            self._on_refused(error)
