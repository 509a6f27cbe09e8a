"""The serving process's side of the image workers: sends them tasks and checks their replies.

No picture is opened here. A worker parsed untrusted bytes, so its reply is validated before use:
fields against `service.imaging.task_data`, and the size of shared memory against the stated size.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import ValidationError

from model_store.boxes import Box
from service import errors
from service.caller_turns import SERVICE
from service.compute.network_data import NetworkInput, NetworkOutput
from service.cpu_allowance import gpus_shown, image_workers
from service.imaging.answer_data import AnswerContext
from service.imaging.comparison_data import (
    COMPARE_ORDER,
    COMPARE_TASK,
    COMPARED,
    ComparedMasks,
    CompareOrder,
)
from service.imaging.segment_request import SegmentRequest
from service.imaging.task_data import (
    ANSWER_FACTS,
    ANSWER_ORDER,
    ANSWER_TASK,
    OPEN_ORDER,
    OPEN_TASK,
    OPENED_FACTS,
    PREVIEW_ORDER,
    PREVIEW_TASK,
    REFUSED_FACTS,
    AnswerOrder,
    BoxScore,
    OpenedFacts,
    OpenOrder,
    PreviewOrder,
    as_json,
)
from service.pipeline.held_answer import HeldAnswer
from service.pipeline.task_budgets import TaskBudget, answering_budget, opening_budget
from service.settings import ALL_DEVICES, Settings
from service.workers.costs import ORDINARY_RENDERING_S
from service.workers.errors import (
    COSTLY_SENTENCE,
    LOST_SENTENCE,
    PoolClosed,
    TaskFailed,
    TaskRefused,
    TooCostly,
    WorkerLost,
)
from service.workers.limits import WorkerLimits
from service.workers.pool import WorkerPool
from service.workers.reply import Reply
from service.workers.shared_memory import Blob
from service.workers.supervisor import PoolConfig

logger = logging.getLogger("service.images")

_TASKS_MODULE = "service.imaging.worker_tasks"

ANSWER_URGENCY, OPEN_URGENCY, IDLE_URGENCY = 0, 1, 2
"""Urgencies. Answers go first, because they are nearly done and their pixels take memory. Tasks
that no caller waits for go last."""

_INTERNAL_SENTENCE = "The image could not be segmented because of an error inside the service."
_LOST_RETRY_S = 2
_REFUSALS: Mapping[str, type[errors.ServiceError]] = {
    kind.code: kind
    for kind in (
        errors.UndecodableImage,
        errors.UnsupportedMediaType,
        errors.UnsupportedTransferSyntax,
        errors.TooManyPixels,
        errors.InvalidField,
        errors.InvalidBox,
        errors.NotAcceptable,
        errors.ImageTooCostly,
    )
}
"""Errors that a worker may state; anything else is an error of ours."""


class TaskPool(Protocol):
    """Runs tasks; `service.workers.pool.WorkerPool` implements it with processes."""

    @property
    def ready(self) -> int:
        """Workers that have a task or wait for one."""

    async def start(self) -> None:
        """Start the workers."""

    async def close(self) -> None:
        """End them."""

    def prepare_extras(self) -> None:
        """Load the libraries that few tasks need in workers."""

    async def run(
        self,
        task: str,
        fields: Mapping[str, Any] | None = None,
        body: bytes = b"",
        blobs: Sequence[Blob] = (),
        *,
        cpu_s: float,
        wall_s: float,
        most_cpu_s: float | None = None,
        is_costly: bool = False,
        urgency: int = 0,
        caller: str = SERVICE,
        needs_extras: bool = False,
    ) -> Reply:
        """Run one task."""


PoolFactory = Callable[[Settings, Callable[[str], None]], TaskPool]
"""Makes a pool; its argument is called with the reason when a worker ends."""


def make_worker_pool(settings: Settings, on_ended: Callable[[str], None]) -> WorkerPool:
    """Make the configured pool of processes."""
    config = PoolConfig(
        tasks=_TASKS_MODULE,
        limits=WorkerLimits.for_pictures(settings.max_pixels),
        on_ended=lambda reason: on_ended(reason.value),
        extras_from_start=settings.dicom_from_start,
    )
    return WorkerPool(config, worker_count(settings))


def worker_count(settings: Settings) -> int:
    """Return the number of image workers: the configured number, or as many as fit."""
    wanted = settings.image_workers or settings.image_threads
    models = 1 + len(settings.further_models) + (settings.shadow_model is not None)
    return wanted or image_workers(gpus=gpus_of(settings), models=models)


def gpus_of(settings: Settings) -> int:
    """Return the number of GPUs for the model, as far as known before it is loaded."""
    names = settings.device_names
    if "cpu" in names:
        return 0
    is_listed = settings.devices != ALL_DEVICES or ":" in settings.device
    return min(len(names), gpus_shown()) if is_listed else gpus_shown()


@dataclass(frozen=True)
class OpenedImage:
    """An opened X-ray, and a context manager that releases its shared memory.

    Attributes:
        pixels: its grey values.
        state: further input of rendering, not read here.
        caller: caller of its request.
    """

    facts: OpenedFacts
    given: NetworkInput
    request: SegmentRequest
    pixels: Blob
    state: Blob
    caller: str

    @property
    def size_bytes(self) -> int:
        """Bytes of its shared memory."""
        return self.pixels.size_bytes + self.state.size_bytes + len(self.given.pixels)

    def __enter__(self) -> OpenedImage:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Release its shared memory."""
        self.pixels.close()
        self.state.close()


class ImageWorkers:
    """Opens X-rays and renders answers in workers."""

    def __init__(self, pool: TaskPool, max_pixels: int) -> None:
        """Keep the pool and the most pixels of an X-ray."""
        self._pool = pool
        self._max_pixels = max_pixels

    @property
    def ready_workers(self) -> int:
        """Workers that have a task or wait for one."""
        return self._pool.ready

    async def open(
        self,
        image: Blob,
        request: SegmentRequest,
        input_size: int,
        max_pixels: int | None = None,
        caller: str = SERVICE,
        urgency: int = OPEN_URGENCY,
    ) -> OpenedImage:
        """Decode an upload and prepare it for the network.

        Args:
            image: the file, which the caller closes.
            request: the caller's request.
            input_size: side of the network's input, pixels.
            max_pixels: most pixels allowed; None for the setting.
            caller: whose turns it uses.
            urgency: lower is sooner.

        Raises:
            ServiceError: the image is refused, or its worker was lost.
        """
        order = OpenOrder(request, input_size, max_pixels or self._max_pixels, time.perf_counter())
        budget = opening_budget(image.size_bytes, order.max_pixels)
        fields = as_json(OPEN_ORDER, order)
        reply = await self._run(OPEN_TASK, fields, [image], budget, urgency, caller)
        with ExitStack() as held:
            held.callback(reply.close)
            opened = _opened(reply, request, input_size, caller)
            held.pop_all()
        if request.needs_dicom:  # loads while the network computes
            self._pool.prepare_extras()
        return opened

    async def preview(self, image: Blob, caller: str) -> HeldAnswer:
        """Decode an upload for a screen.

        Args:
            image: the file, which the caller closes.
            caller: whose turns it uses.

        Raises:
            ServiceError: the image is refused, or its worker was lost.
        """
        fields = as_json(PREVIEW_ORDER, PreviewOrder(self._max_pixels))
        budget = opening_budget(image.size_bytes, self._max_pixels)
        return _held(await self._run(PREVIEW_TASK, fields, [image], budget, OPEN_URGENCY, caller))

    async def answer(
        self, opened: OpenedImage, output: NetworkOutput, context: AnswerContext
    ) -> HeldAnswer:
        """Turn the network's output into masks and render the answer.

        Raises:
            ServiceError: the answer is not available, or its worker was lost.
        """
        masks = tuple(BoxScore(one.box, one.side, one.score, one.structure) for one in output.masks)
        order = AnswerOrder(context, opened.facts, opened.given.side, masks)
        pixels = opened.facts.width * opened.facts.height
        budget = answering_budget(pixels, len(masks), opened.request)
        with Blob.of(*(one.logits for one in output.masks)) as logits:
            blobs = [opened.pixels, opened.state, logits]
            fields, is_dicom = as_json(ANSWER_ORDER, order), opened.request.needs_dicom
            answering = self._run(
                ANSWER_TASK, fields, blobs, budget, ANSWER_URGENCY, opened.caller, is_dicom
            )
            return _held(await answering)

    async def compare(
        self, order: CompareOrder, logits: Sequence[bytes]
    ) -> tuple[ComparedMasks, ...]:
        """Compare two models' masks, when the workers are idle.

        Args:
            order: masks to compare.
            logits: logits of each pair, the given mask's first.

        Raises:
            ServiceError: the worker was lost, or sent an invalid reply.
        """
        fields = as_json(COMPARE_ORDER, order)
        budget = TaskBudget(ORDINARY_RENDERING_S, ORDINARY_RENDERING_S)
        with Blob.of(*logits) as blob:
            reply = await self._run(COMPARE_TASK, fields, [blob], budget, IDLE_URGENCY, SERVICE)
        with reply:
            try:
                found = COMPARED.validate_python(reply.fields.get("masks"))
            except ValidationError:
                raise _garbled(COMPARE_TASK) from None
        if len(found) != len(order.pairs):
            raise _garbled(COMPARE_TASK)
        return found

    async def _run(
        self,
        task: str,
        fields: Mapping[str, Any],
        blobs: Sequence[Blob],
        budget: TaskBudget,
        urgency: int,
        caller: str,
        needs_extras: bool = False,
    ) -> Reply:
        try:
            return await self._pool.run(
                task,
                fields,
                blobs=blobs,
                cpu_s=budget.cpu_s,
                wall_s=budget.wall_s,
                most_cpu_s=budget.most_cpu_s,
                is_costly=budget.is_costly,
                urgency=urgency,
                caller=caller,
                needs_extras=needs_extras,
            )
        except TaskRefused as refused:
            raise _refusal(refused.fields) from None
        except TooCostly:
            raise errors.ImageTooCostly(COSTLY_SENTENCE) from None
        except WorkerLost:
            raise errors.WorkerLost(LOST_SENTENCE, retry_after_s=_LOST_RETRY_S) from None
        except PoolClosed:
            raise errors.Draining("The service is shutting down.", retry_after_s=5) from None
        except TaskFailed as failed:
            fields = {"task": task, "error_type": failed.error_type, "where": list(failed.where)}
            logger.error("image task failed", extra={"fields": fields})
            raise errors.InternalError(_INTERNAL_SENTENCE) from None


def _opened(reply: Reply, request: SegmentRequest, input_size: int, caller: str) -> OpenedImage:
    try:
        facts = OPENED_FACTS.validate_python(dict(reply.fields))
        pixels, network_input, state = reply.blobs
    except ValueError:  # pydantic's errors are ValueErrors
        raise _garbled(OPEN_TASK) from None
    pixel_bytes = facts.width * facts.height * facts.bytes_per_pixel
    if (pixels.size_bytes, network_input.size_bytes) != (pixel_bytes, input_size**2):
        raise _garbled(OPEN_TASK)
    with network_input:
        given = _given(network_input.read(), input_size, facts, request)
    return OpenedImage(facts, given, request, pixels, state, caller)


def _given(
    pixels: bytes, input_size: int, facts: OpenedFacts, request: SegmentRequest
) -> NetworkInput:
    """Return the network's input: the upright X-ray with its boxes."""
    stored = (facts.width, facts.height)
    whole: Box = (0.0, 0.0, float(facts.width), float(facts.height))
    boxes = (facts.orientation.apply_to_box(box, *stored) for box in request.prompts or (whole,))
    width, height = facts.orientation.size_of(*stored)
    return NetworkInput(
        pixels=pixels,
        side=input_size,
        width=width,
        height=height,
        boxes=tuple(boxes),
        convention=request.convention,
        structures=request.network_structures,
    )


def _held(reply: Reply) -> HeldAnswer:
    try:
        facts = ANSWER_FACTS.validate_python(dict(reply.fields))
        (body,) = reply.blobs
    except ValueError:
        reply.close()
        raise _garbled(ANSWER_TASK) from None
    return HeldAnswer(facts, body)


def _refusal(fields: Mapping[str, Any]) -> errors.ServiceError:
    try:
        facts = REFUSED_FACTS.validate_python(dict(fields))
        return _REFUSALS[facts.code](facts.detail)
    except (ValidationError, KeyError):
        return _garbled("refusal")


def _garbled(task: str) -> errors.ServiceError:
    """Return the error for an invalid reply: the image must have caused it."""
    logger.error("image worker not understood", extra={"fields": {"task": task}})
    return errors.ImageTooCostly(COSTLY_SENTENCE)
