"""One segmentation request from its upload to its answer, and the shared parts.

decode -> preprocess -> queue -> (encode_image -> decode_mask) -> postprocess -> render: the stages
in brackets run in the compute process, the others in image workers, while the network works on
another X-ray. This process opens no picture. Whatever ends a request early (a refusal, its
deadline, a caller who left) releases its slot, its bytes and its shared memory.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager

from model_store.model_info import ModelInfo
from model_store.structures import LUNGS
from service.compute.compute_job import ComputeResult
from service.compute.cpu_turns import CpuTurns
from service.compute.fleet import ComputeFleet
from service.compute.model_handle import LOST_SENTENCE
from service.compute.model_loading import ModelLoader, PredictorFactory
from service.compute.readiness import Readiness, State
from service.compute.shadow_model import start_shadow_child
from service.cpu_allowance import model_threads, models_at_a_time
from service.errors import ComputeLost, InvalidField
from service.imaging.answer_data import AnswerContext
from service.imaging.answer_schema import ModelIdentity
from service.imaging.dicom_options import ObjectOptions, PlaneChoice
from service.imaging.segment_request import SegmentRequest
from service.imaging.task_data import OpenedFacts
from service.machine_watch import MachineWatch
from service.memory_allowance import UNFINISHED_UPLOADS
from service.metrics import Metrics
from service.pipeline.admission import AdmissionControl
from service.pipeline.auditing import Auditing
from service.pipeline.drift_noting import compared_model, note_drift
from service.pipeline.held_answer import HeldAnswer
from service.pipeline.image_proof import ImageProof
from service.pipeline.image_workers import ImageWorkers, OpenedImage, PoolFactory, worker_count
from service.pipeline.machine_log import watch_machine
from service.pipeline.model_generations import GenerationReadiness
from service.pipeline.served_models import ServedModels
from service.pipeline.shadow import AnsweredXray, Shadow
from service.request_record import RequestRecord, ServedName
from service.settings import Settings
from service.workers.shared_memory import Blob

THREAD_END_TIMEOUT_S = 5.0
"""How long `stop` waits for the running model call, after the requests were drained."""

SHADOW_END_TIMEOUT_S = 1.0
"""The same for the shadow model, whose call may wait long for a processor."""


class SegmentationService:
    """The parts that all requests of one process share.

    Attributes:
        readiness: whether masks may be given.
        admission: limits and counts accepted requests.
        requests_running: number of running segmentation requests.
        auditing: writes audit entries; None without an audit log.
    """

    def __init__(
        self,
        settings: Settings,
        predictor_factory: PredictorFactory,
        pool_factory: PoolFactory,
        on_refused: Callable[[Exception], None],
        shadow_factory: PredictorFactory = start_shadow_child,
    ) -> None:
        """Build the parts; nothing runs before `start`."""
        self.settings = settings
        self.readiness = Readiness()
        self.admission = AdmissionControl(
            queue_limit=settings.queue_limit,
            max_batch=settings.max_batch,
            upload_budget_bytes=UNFINISHED_UPLOADS * settings.max_upload_bytes,
            queue_limit_bytes=settings.queue_limit_bytes,
        )
        self.metrics = Metrics(
            queue_limit=settings.queue_limit,
            queue_depth=lambda: self.admission.waiting,
            queue_bytes=lambda: self.admission.inside_bytes,
        )
        self.metrics.follow_readiness(lambda: self.readiness.state is State.READY)
        self._predictor_factory = predictor_factory
        self._turns = _turns_of(settings)
        self.models = ServedModels(settings, self.readiness, self._make_host, on_refused)
        self.metrics.follow_devices(
            lambda: min(host.ready_devices for host in self.hosts), lambda: len(self.host.devices)
        )
        self._object_options = ObjectOptions(settings.uid_key, PlaneChoice(settings.dicom_plane))
        self.requests_running = 0
        self.auditing: Auditing | None = None
        self._pool = pool_factory(settings, self.metrics.image_worker_ended)
        self._images = ImageWorkers(self._pool, settings.max_pixels)
        self._proof = ImageProof(
            self._images,
            self.readiness,
            self._loaded_model,
            lambda: self.models.first.served.settings,
        )
        self._watching: list[asyncio.Task[None]] = []
        self._shadow: Shadow | None = None
        if settings.shadow_model is not None:
            self._shadow = Shadow(
                settings,
                self._images,
                self.metrics.shadow,
                shadow_factory,
                is_busy=lambda: self.admission.inside > 0,
            )

    async def start(self) -> None:
        """Start loading the models in their compute threads, and start the image workers."""
        self.models.start()
        await self._pool.start()
        if self._shadow is not None:
            self._shadow.start()
        machine = watch_machine(MachineWatch(), self.metrics, worker_count(self.settings))
        self._watching = [
            asyncio.create_task(self._proof.watch()), asyncio.create_task(machine),
        ]  # fmt: skip

    async def stop(self) -> None:
        """Refuse new work, end the compute thread and the image workers."""
        self.readiness.mark_draining()
        for task in self._watching:
            task.cancel()
        await asyncio.gather(*self._watching, return_exceptions=True)
        if self._shadow is not None:
            await self._shadow.close(SHADOW_END_TIMEOUT_S)
        await self._pool.close()
        await self.models.close(THREAD_END_TIMEOUT_S)
        if self.auditing is not None:
            await asyncio.to_thread(self.auditing.log.close)

    @property
    def host(self) -> ComputeFleet:
        """The processes of the first served model."""
        return self.models.first.served.host

    @property
    def hosts(self) -> tuple[ComputeFleet, ...]:
        """The processes of each served model."""
        return tuple(one.served.host for one in self.models.each)

    @property
    def loader(self) -> ModelLoader:
        """The loader of the first device, with the proven model."""
        return self.host.devices[0].loader

    @property
    def worker(self) -> ComputeFleet:
        """The worker of the first device, which accepts requests for the served model."""
        return self.host

    def show_served(self) -> None:
        """Publish the served models and the memory of their processes."""
        self.metrics.models.forget_states()
        resident_bytes, gpu_bytes = 0, Counter[str]()
        for number, host in enumerate(self.hosts):
            for model in host.models:
                _show_model(self.metrics, number, model.info)
            memory = host.memory()
            resident_bytes += memory.resident_bytes
            gpu_bytes.update(memory.gpu_bytes)
            if host.identity is not None:
                self.metrics.models.show_state(
                    host.identity.name,
                    host.identity.version,
                    is_ready=self.models.is_ready(number),
                    resident_bytes=memory.resident_bytes,
                )
        self.metrics.show_memory(resident_bytes, gpu_bytes)
        if self._shadow is not None:
            self._shadow.show()

    def served(self) -> str | None:
        """Return a sentence about the served models and how they run; None until ready."""
        descriptions = [self._description_of(host) for host in self.hosts]
        if descriptions[0] is None or self.readiness.state is not State.READY:
            return None
        return "; ".join(sentence for sentence in descriptions if sentence is not None)

    def _description_of(self, host: ComputeFleet) -> str | None:
        model = host.model  # read once: the compute thread may remove it
        if model is None:
            return None
        info = model.info
        threads = self.settings.threads or model_threads()
        devices = ", ".join(one.info.device for one in host.models)
        place = devices if info.device != "cpu" else f"{threads} CPU thread(s)"
        return (
            f"{info.name} {info.version} ({info.sha256[:12]}), {info.precision} by {info.engine} "
            f"on {place}"
        )

    @contextmanager
    def count_running(self) -> Generator[None, None, None]:
        """Count a request as running until it ends, for the metric and for draining."""
        self.requests_running += 1
        self.metrics.inflight.inc()
        try:
            yield
        finally:
            self.requests_running -= 1
            self.metrics.inflight.dec()

    async def segment(
        self, image: Blob, request: SegmentRequest, upload_bytes: int, record: RequestRecord
    ) -> HeldAnswer:
        """Answer one request for an X-ray.

        Args:
            image: the file, which the caller closes.
            request: what the caller wants of it.
            upload_bytes: size of the whole upload, held meanwhile.
            record: gets times, sizes and warnings.

        Raises:
            ServiceError: there is no answer, and why.
        """
        if self.auditing is None:
            return await self._segment(image, request, upload_bytes, record)
        return await self.auditing.noted(
            image, request, record, lambda: self._segment(image, request, upload_bytes, record)
        )

    async def _segment(
        self, image: Blob, request: SegmentRequest, upload_bytes: int, record: RequestRecord
    ) -> HeldAnswer:
        with self.models.use(request.model) as generation:
            known = generation.host.identity
            record.requested_model = (
                None if known is None else ServedName(known.name, known.version)
            )
            return await self._segment_by(generation.host, image, request, upload_bytes, record)

    async def _segment_by(
        self,
        host: ComputeFleet,
        image: Blob,
        request: SegmentRequest,
        upload_bytes: int,
        record: RequestRecord,
    ) -> HeldAnswer:
        """Answer with one model from beginning to end, whatever is served meanwhile."""
        input_size = _model_for(host, request).input_size
        record.box_count = len(request.boxes)
        with self.admission.enter(record.caller) as place:
            place.hold_bytes(upload_bytes)
            record.decode_began_at = time.perf_counter()
            opening = self._images.open(image, request, input_size, caller=record.caller)
            with await opening as opened:
                _note_opened(record, opened.facts)
                place.hold_bytes(opened.size_bytes)
                result = await _compute(host, opened, place.reach_model)
                record.stage_seconds |= {"queue": result.queue_s, **result.output.stage_seconds}
                record.batch_size = result.batch_size
                record.model = result.model
                context = AnswerContext(
                    request_id=record.request_id,
                    model=identity_of(result.model),
                    stage_seconds=dict(record.stage_seconds),
                    request_began_at=record.started_at,
                    requested_at=time.perf_counter(),
                    object_options=self._options_for(request, opened.facts, result.model),
                    kind=result.model.manifest.kind_of(result.output.quality),
                )
                answer = await self._images.answer(opened, result.output, context)
                if self._shadow is not None and host is self.host:
                    found = AnsweredXray(record.request_id, request, opened.given, result.output)
                    self._shadow.offer(found, image)
        record.stage_seconds |= answer.facts.stage_seconds
        record.warning_codes = tuple(str(code) for code in answer.facts.warning_codes)
        self._note_answer(record, answer)
        note_drift(self.metrics.drift, request, record, answer.facts, result.model)
        return answer

    async def preview(self, image: Blob, upload_bytes: int, record: RequestRecord) -> HeldAnswer:
        """Return the grey values of one X-ray for display, without the network.

        Args:
            image: the file, which the caller closes.
            upload_bytes: size of the whole upload, held meanwhile.
            record: says whose it is.

        Raises:
            ServiceError: the image is refused.
        """
        with self.admission.enter(record.caller) as place:
            place.hold_bytes(upload_bytes)
            return await self._images.preview(image, record.caller)

    def _loaded_model(self) -> ModelInfo | None:
        model = self.host.model
        return None if model is None else model.info

    def _options_for(
        self, request: SegmentRequest, facts: OpenedFacts, model: ModelInfo
    ) -> ObjectOptions:
        """Return the options for the answer's worker, without the deployment's key."""
        if not request.needs_dicom:
            return self._object_options.without_key()
        return self._object_options.of_xray(facts.xray_digest, model.sha256)

    def _make_host(
        self,
        settings: Settings,
        readiness: GenerationReadiness,
        on_refused: Callable[[Exception], None],
    ) -> ComputeFleet:
        return ComputeFleet(
            settings,
            readiness,
            self.metrics,
            self._predictor_factory,
            on_batch=self._note_batch,
            on_refused=on_refused,
            turns=self._turns,
        )

    def _note_batch(self, size: int, seconds: float) -> None:
        self.metrics.batch_size.observe(size)
        self.admission.note_pace(seconds / size / max(1, len(self.host.models)))

    def _note_answer(self, record: RequestRecord, answer: HeldAnswer) -> None:
        for stage, seconds in record.stage_seconds.items():
            self.metrics.stage_duration.labels(stage).observe(seconds)
        if record.width is not None and record.height is not None:
            self.metrics.input_pixels.observe(record.width * record.height)
        for ratio in answer.facts.area_ratios:
            self.metrics.mask_area_ratio.observe(ratio)
        for code in record.warning_codes:
            self.metrics.warnings.labels(code).inc()
            if record.model is not None:
                self.metrics.models.count_warning(record.model.name, record.model.version, code)


def identity_of(info: ModelInfo) -> ModelIdentity:
    """Return the public identity of a loaded model."""
    return ModelIdentity(
        name=info.name,
        version=info.version,
        sha256=info.sha256,
        precision=info.precision,
        weight_bits=info.weight_bits,
        device=info.device,
    )


def _turns_of(settings: Settings) -> CpuTurns | None:
    """Return the turns of several models on the CPUs; a single model needs none."""
    if not settings.further_models:
        return None
    on_cpu = settings.device_names.count("cpu")
    return CpuTurns(max(on_cpu, models_at_a_time(settings.threads or model_threads())))


def _show_model(metrics: Metrics, number: int, info: ModelInfo) -> None:
    metrics.show_model(
        number,
        name=info.name,
        version=info.version,
        sha256=info.sha256,
        precision=info.precision,
        device=info.device,
    )
    metrics.drift.show(compared_model(info))


def _note_opened(record: RequestRecord, facts: OpenedFacts) -> None:
    record.stage_seconds |= facts.stage_seconds
    record.image_format = facts.format
    record.width, record.height = facts.width, facts.height
    record.grey_level = facts.grey_level


def _model_for(host: ComputeFleet, request: SegmentRequest) -> ModelInfo:
    """Return the model that will answer; imported models know only one convention.

    Raises:
        ComputeLost: it was lost during the upload.
        InvalidField: it was not trained on the requested convention or structure.
    """
    model = host.model  # read once: the compute thread may remove it
    if model is None:
        raise ComputeLost(LOST_SENTENCE, retry_after_s=2)
    info = model.info
    if request.convention not in info.manifest.conventions:
        known = ", ".join(info.manifest.conventions)
        raise InvalidField(f"The field convention must be {known}; this model knows no other.")
    unknown = set(request.network_structures) - {LUNGS, *info.manifest.structures}
    if unknown:
        raise InvalidField(
            f"The model that is served, {info.name} {info.version}, does not know the "
            f"{', '.join(sorted(unknown))}; ask for the lungs alone, without the "
            "cardiothoracic ratio."
        )
    return info


async def _compute(
    host: ComputeFleet, opened: OpenedImage, on_taken: Callable[[], None]
) -> ComputeResult:
    job = host.submit(opened.given, on_taken, opened.caller)
    try:
        return await asyncio.wrap_future(job.future)
    finally:
        host.withdraw(job)
