"""The steps of one request around the network: X-ray to input before it, logits to answer after.

They run in the image threads, beside the network, which works on another caller's X-ray then.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from starlette.responses import Response

from model_store.boxes import BoxError, validate_box
from model_store.geometry import grey_histogram
from model_store.pictures.picture_reading import Picture
from model_store.prediction import PredictionRequest
from model_store.preparation import PreparedRequest, mask_from, prepare
from service.compute.compute_worker import ComputeResult
from service.errors import InvalidBox, NotAcceptable
from service.http.form import SegmentForm
from service.imaging.answer_kind import AnswerKind
from service.imaging.mask_checks import check_image
from service.imaging.picture_errors import read_upload
from service.imaging.response_warnings import Warning_
from service.imaging.segment_answer import SegmentFindings, render_answer
from service.imaging.side_thread import Both
from service.request_record import RequestRecord


@dataclass(frozen=True)
class OpenedXray:
    """An upload, decoded and prepared for the network.

    Attributes:
        form: what was asked for.
        decoded: the X-ray.
        prepared: what the network gets.
        remarks: what looks wrong about its grey values.
    """

    form: SegmentForm
    decoded: Picture
    prepared: PreparedRequest
    remarks: tuple[Warning_, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of its pixels, as they came and as the network gets them."""
        return int(self.decoded.pixels.nbytes + self.prepared.pixels.nbytes)


def open_xray(
    form: SegmentForm, kind: AnswerKind, input_size: int, max_pixels: int, record: RequestRecord
) -> OpenedXray:
    """Decodes an upload and prepares it for the network.

    Args:
        form: what was asked for.
        kind: form of answer wanted; a DICOM SEG needs a DICOM image.
        input_size: side of the network's input, pixels.
        max_pixels: most pixels allowed.
        record: gets the format, the size and the times of `decode` and `preprocess`; its
            `decode_began_at` says when decoding was asked for.

    Raises:
        ServiceError: the image or a box is refused, or the answer is not to be had for it.
    """
    decoded = read_upload(form.image, max_pixels=max_pixels)
    decoded_at = time.perf_counter()
    record.stage_seconds["decode"] = decoded_at - (record.decode_began_at or decoded_at)
    record.image_format = decoded.format
    record.height, record.width = decoded.pixels.shape
    if kind is AnswerKind.DICOM and decoded.dicom is None:
        raise NotAcceptable(
            "An application/dicom answer needs a DICOM image; accept application/json or "
            "image/png for this one."
        )
    histogram = grey_histogram(decoded.pixels)
    prepared = prepare(_asked(form, decoded), input_size, histogram)
    remarks = check_image(histogram)
    record.stage_seconds["preprocess"] = time.perf_counter() - decoded_at
    return OpenedXray(form, decoded, prepared, remarks)


def answer_of(
    opened: OpenedXray,
    result: ComputeResult,
    kind: AnswerKind,
    record: RequestRecord,
    asked_at: float,
    both: Both,
) -> tuple[SegmentFindings, Response]:
    """Draws the masks and renders the answer.

    Args:
        opened: the X-ray.
        result: what the network says about it.
        kind: form of answer wanted.
        record: gets the times of `postprocess` and `render`, and the warnings.
        asked_at: `time.perf_counter()` when this was asked for; waiting for a thread is `render`.
        both: does two pieces of the rendering.
    """
    began = time.perf_counter()
    geometry, threshold = opened.prepared.geometry, opened.form.threshold
    masks = [mask_from(found, geometry, threshold) for found in result.answer.masks]
    postprocess_s = record.stage_seconds["postprocess"] = time.perf_counter() - began
    findings = SegmentFindings(opened.form, opened.decoded, masks, result.model, opened.remarks)
    return findings, render_answer(kind, findings, record, asked_at + postprocess_s, both)


def _asked(form: SegmentForm, decoded: Picture) -> PredictionRequest:
    try:
        boxes = tuple(validate_box(box, decoded.width, decoded.height) for box in form.boxes)
    except BoxError as error:
        raise InvalidBox(str(error)) from None
    return PredictionRequest(decoded.pixels, boxes, form.convention, form.threshold)
