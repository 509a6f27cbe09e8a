"""The tasks of an image worker: open an X-ray, render the answer, compare masks, preview.

Opening and rendering are independent: a worker keeps nothing between them, so either half can run
in any worker. The first half passes pixels and a state to the second, in shared memory that the
serving process holds and does not read. The state is JSON, so a worker that parsed hostile bytes
cannot make the next one execute anything.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from model_store.geometry import InputGeometry
from model_store.pictures.dicom_display import GreyDisplay
from model_store.pictures.orientation import Orientation
from model_store.pictures.picture_reading import Picture
from model_store.pictures.picture_warnings import PictureWarning
from model_store.postprocessing import MaskLogits
from service.errors import ServiceError, UndecodableImage
from service.heap import keep_one_heap
from service.imaging.answer_data import RenderedAnswer
from service.imaging.answering import answer_of
from service.imaging.comparison_data import COMPARE_ORDER, COMPARE_TASK, COMPARED
from service.imaging.dicom_header import SourceHeader
from service.imaging.image_scale import ImageScale
from service.imaging.mask_comparison import compare
from service.imaging.opening import OpenedXray, open_xray
from service.imaging.opening_cost import StatedNeed
from service.imaging.preview import preview_of
from service.imaging.response_warnings import ImageWarning, WarningCode
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
    AnswerFacts,
    AnswerOrder,
    OpenedFacts,
    RefusedFacts,
    as_json,
)
from service.imaging.warm_up import decode_and_render_once
from service.workers.task import Answer, Function, Refusal, Task


@dataclass(frozen=True)
class _State:
    """The result of opening that rendering needs, beside the pixels.

    Attributes:
        warnings: warnings of decoding.
        remarks: warnings about the grey values.
        header: attributes for a DICOM answer.
        scale: how pixels of the upright X-ray relate to the patient.
        orientation: how to turn its pixels upright.
        display: how to display its grey values, for answers that repeat it.
    """

    request: SegmentRequest
    warnings: tuple[PictureWarning, ...]
    remarks: tuple[ImageWarning, ...]
    header: SourceHeader | None
    scale: ImageScale
    orientation: Orientation
    display: GreyDisplay | None = None


_STATE = TypeAdapter(_State)


def open_task(task: Task) -> Answer:
    """Decode an upload and prepare it for the network.

    Args:
        task: an `OpenOrder`, with the file in shared memory.

    Returns:
        `OpenedFacts`; shared memory: the pixels, the network's input, the state.
    """
    order = OPEN_ORDER.validate_python(task.fields)
    file = bytes(task.map(0))
    need = StatedNeed(task, len(file), len(order.request.boxes))
    try:
        opening = open_xray(
            file,
            order.request,
            order.input_size,
            order.max_pixels,
            order.requested_at,
            need.state,
        )
    except ServiceError as error:
        raise _refusal(error, is_last=need.is_decoding) from None
    xray, decoded = opening.xray, opening.xray.decoded
    facts = OpenedFacts(
        format=decoded.format,  # type: ignore[arg-type]
        width=decoded.width,
        height=decoded.height,
        bytes_per_pixel=decoded.pixels.itemsize,  # type: ignore[arg-type]
        orientation=decoded.orientation,
        stage_seconds=dict(opening.stage_seconds),
        grey_level=opening.grey_level,
        xray_digest=_digest_of(xray.header),
    )
    state = _State(
        xray.request,
        decoded.warnings,
        xray.remarks,
        xray.header,
        xray.scale,
        decoded.orientation,
        xray.display,
    )
    pieces: list[bytes | memoryview] = [
        _bytes_of(decoded.pixels),
        _bytes_of(opening.prepared.pixels),
        _STATE.dump_json(state),
    ]
    return Answer(as_json(OPENED_FACTS, facts), blobs=pieces)


def answer_task(task: Task) -> Answer:
    """Turn logits into masks and render the answer.

    Args:
        task: an `AnswerOrder`; shared memory: the pixels and the state of `open_task`, and the
            logits of all boxes, one after another.

    Returns:
        `AnswerFacts`; shared memory: the body.
    """
    order = ANSWER_ORDER.validate_python(task.fields)
    xray = _xray_of(task, order)
    try:
        answer = answer_of(xray, _logits_of(task, order), order.context)
    except ServiceError as error:
        raise _refusal(error) from None
    return _sent(answer)


def preview_task(task: Task) -> Answer:
    """Decode an upload for display.

    Args:
        task: a `PreviewOrder`, with the file in shared memory.

    Returns:
        `AnswerFacts`; shared memory: the body.
    """
    order = PREVIEW_ORDER.validate_python(task.fields)
    file = bytes(task.map(0))
    need = StatedNeed(task, len(file))
    try:
        return _sent(preview_of(file, order.max_pixels, need.state))
    except ServiceError as error:
        raise _refusal(error, is_last=need.is_decoding) from None


def compare_task(task: Task) -> Answer:
    """Compare two models' masks.

    Args:
        task: a `CompareOrder`, with the logits of its pairs in shared memory.

    Returns:
        The comparisons, under `masks`.
    """
    order = COMPARE_ORDER.validate_python(task.fields)
    found = compare(order, np.frombuffer(task.map(0), np.float32))
    return Answer({"masks": COMPARED.dump_python(found, mode="json")})


def warm_up() -> None:
    """Run everything once, in the process that workers are forked from."""
    keep_one_heap()
    decode_and_render_once()


def warm_up_extras() -> None:
    """Encode every DICOM object once, before the first answer in DICOM."""
    from service.imaging.dicom_warm_up import encode_objects_once

    encode_objects_once()


TASKS: dict[str, Function] = {
    OPEN_TASK: open_task,
    ANSWER_TASK: answer_task,
    PREVIEW_TASK: preview_task,
    COMPARE_TASK: compare_task,
}


def _sent(answer: RenderedAnswer) -> Answer:
    facts = AnswerFacts(
        media_type=answer.media_type,
        headers=dict(answer.headers),
        warning_codes=tuple(map(WarningCode, answer.warning_codes)),
        area_ratios=answer.area_ratios,
        lungs_confidences=answer.lungs_confidences,
        stage_seconds=dict(answer.stage_seconds),
        areas_px=answer.areas_px,
        confidences=answer.confidences,
    )
    return Answer(as_json(ANSWER_FACTS, facts), blobs=[answer.body])


def _digest_of(header: SourceHeader | None) -> str:
    """Return a digest of the X-ray's identifier, which the serving process does not get."""
    if header is None:
        return ""
    return hashlib.sha256(header.sop_instance_uid.encode()).hexdigest()


def _bytes_of(array: NDArray[Any]) -> memoryview:
    return np.ascontiguousarray(array).data.cast("B")


def _refusal(error: ServiceError, is_last: bool = False) -> Refusal:
    facts = RefusedFacts(error.code, error.detail)
    # Native code that failed on damaged pixels may have corrupted the process.
    is_damage = is_last and isinstance(error, UndecodableImage)
    return Refusal(as_json(REFUSED_FACTS, facts), is_damage)


def _xray_of(task: Task, order: AnswerOrder) -> OpenedXray:
    facts, state = order.facts, _STATE.validate_json(bytes(task.map(1)))
    kind = np.uint8 if facts.bytes_per_pixel == 1 else np.uint16
    pixels = np.frombuffer(task.map(0), kind).reshape(facts.height, facts.width)
    decoded = Picture(pixels, facts.format, state.warnings, None, state.orientation)
    upright_size = state.orientation.size_of(facts.width, facts.height)
    geometry = InputGeometry(*upright_size, order.input_size)
    return OpenedXray(
        state.request,
        decoded,
        geometry,
        state.remarks,
        state.header,
        state.scale,
        state.display,
    )


def _logits_of(task: Task, order: AnswerOrder) -> list[MaskLogits]:
    values, found = np.frombuffer(task.map(2), np.float32), []
    for one in order.masks:
        logits, values = values[: one.side**2], values[one.side**2 :]
        square = logits.reshape(one.side, one.side)
        found.append(MaskLogits(one.box, square, one.score, one.structure))
    return found
