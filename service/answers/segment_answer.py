"""Turns masks into the answer of `POST /segment`: JSON, the mask itself, or a DICOM SEG.

Runs in a worker thread: encoding pictures takes tens of milliseconds.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pybase64
from starlette.responses import Response

from service.answers.answer_kind import AnswerKind
from service.answers.mask_checks import check_mask
from service.answers.rendering import encode_mask_png, encode_overlay_png, encode_rle
from service.answers.response_warnings import Warning_
from service.answers.schemas import (
    ImageSize,
    Latency,
    ModelIdentity,
    ResponseWarning,
    RunLengthMask,
    SegmentAnswer,
    SegmentedMask,
)
from service.decoding.image_decoding import DecodedImage
from service.errors import NotAcceptable
from service.metrics import STAGES
from service.requests.request_record import RequestRecord
from service.requests.segment_form import SegmentForm

if TYPE_CHECKING:
    from model_store.prediction import MaskPrediction, ModelInfo


_PICTURE = "<picture>"
"""Stands for a picture until the rest is JSON: looking for quotes in its base64 costs 1 ms."""


@dataclass(frozen=True)
class SegmentFindings:
    """All that an answer is made from.

    Attributes:
        form: what was asked for.
        decoded: the image.
        masks: what the model found, one per box.
        model: the model that found it.
        image_warnings: what looks wrong about the image's grey values.
    """

    form: SegmentForm
    decoded: DecodedImage
    masks: Sequence[MaskPrediction]
    model: ModelInfo
    image_warnings: Sequence[Warning_] = ()


def identity_of(info: ModelInfo) -> ModelIdentity:
    """Returns the public identity of a loaded model."""
    return ModelIdentity(
        name=info.name,
        version=info.version,
        sha256=info.sha256,
        precision=info.precision,
        device=info.device,
    )


def render_answer(
    kind: AnswerKind, findings: SegmentFindings, record: RequestRecord, began: float
) -> Response:
    """Renders the answer in the form asked for.

    Args:
        kind: the form.
        findings: image, masks and model.
        record: gets the time of the stage `render` and the codes of the warnings.
        began: `time.perf_counter()` when rendering was asked for.

    Returns:
        The answer, complete but for the headers that every answer has.
    """
    warnings = _warnings(findings)
    record.warning_codes = tuple(dict.fromkeys(warning.code for warning in warnings))
    if kind is AnswerKind.PNG:
        response = _png_answer(findings, record, began)
    elif kind is AnswerKind.DICOM:
        response = _dicom_answer(findings, record, began)
    else:
        response = _json_answer(findings, record, warnings, began)
    response.headers["Vary"] = "Accept"
    return response


def _json_answer(
    findings: SegmentFindings,
    record: RequestRecord,
    warnings: Sequence[ResponseWarning],
    began: float,
) -> Response:
    pixels = findings.decoded.pixels
    masks = tuple(_segmented(found) for found in findings.masks)
    pictures = [encode_mask_png(found.mask) for found in findings.masks]
    if findings.form.wants_overlay:
        drawn = [found.mask for found in findings.masks]
        pictures.append(encode_overlay_png(pixels, drawn, findings.form.boxes))
    encoded = [pybase64.b64encode(picture) for picture in pictures]
    record.stage_seconds["render"] = time.perf_counter() - began
    answer = SegmentAnswer(
        request_id=record.request_id,
        model=identity_of(findings.model),
        image=ImageSize(width=findings.decoded.width, height=findings.decoded.height),
        convention=findings.form.convention,
        threshold=findings.form.threshold,
        masks=masks,
        overlay_png=_PICTURE if findings.form.wants_overlay else None,
        latency_ms=_latency(record),
        warnings=tuple(warnings),
    )
    return Response(_with_pictures(answer, encoded), media_type=AnswerKind.JSON.value)


def _with_pictures(answer: SegmentAnswer, encoded: Sequence[bytes]) -> bytes:
    """Returns the JSON with the pictures, in base64, in the places left for them, in order."""
    pieces = answer.model_dump_json().encode().split(_PICTURE.encode())
    if len(pieces) != len(encoded) + 1:
        raise ValueError("the answer has another number of places than pictures")
    return b"".join(itertools.chain(*zip(pieces, encoded, strict=False), pieces[-1:]))


def _png_answer(findings: SegmentFindings, record: RequestRecord, began: float) -> Response:
    found = findings.masks[0]
    data = encode_mask_png(found.mask)
    record.stage_seconds["render"] = time.perf_counter() - began
    headers = _answer_headers(findings, record)
    area_px = int(np.count_nonzero(found.mask))
    headers |= {
        "X-Lungseg-Bbox": ",".join(f"{value:g}" for value in found.box),
        "X-Lungseg-Score": f"{found.score:.4f}",
        "X-Lungseg-Area-Px": str(area_px),
        "X-Lungseg-Area-Fraction": f"{area_px / found.mask.size:.6f}",
    }
    return Response(data, media_type=AnswerKind.PNG.value, headers=headers)


def _dicom_answer(findings: SegmentFindings, record: RequestRecord, began: float) -> Response:
    from service.answers.dicom_segmentation import (
        encode_dicom_segmentation,  # slow import, seldom needed
    )

    source = findings.decoded.dicom
    if source is None:
        raise NotAcceptable("An application/dicom answer needs a DICOM image.")
    masks = [found.mask for found in findings.masks]
    data = encode_dicom_segmentation(
        source,
        masks,
        findings.model,
        convention=findings.form.convention,
        is_prompted=bool(findings.form.boxes),
    )
    record.stage_seconds["render"] = time.perf_counter() - began
    headers = _answer_headers(findings, record)
    return Response(data, media_type=AnswerKind.DICOM.value, headers=headers)


def _answer_headers(findings: SegmentFindings, record: RequestRecord) -> dict[str, str]:
    """What the JSON body says, for answers whose body is a picture."""
    model = findings.model
    return {
        "X-Lungseg-Model": f"{model.name}/{model.version}",
        "X-Lungseg-Model-Sha256": model.sha256,
        "X-Lungseg-Precision": model.precision,
        "X-Lungseg-Device": model.device,
        "X-Lungseg-Convention": findings.form.convention,
        "X-Lungseg-Threshold": f"{findings.form.threshold:g}",
        "X-Lungseg-Warnings": ",".join(record.warning_codes),
        "X-Lungseg-Latency-Ms": f"{record.elapsed_s() * 1000:.1f}",
    }


def _segmented(found: MaskPrediction) -> SegmentedMask:
    area_px = int(np.count_nonzero(found.mask))
    return SegmentedMask(
        bbox=found.box,
        score=found.score,
        area_px=area_px,
        area_fraction=area_px / found.mask.size,
        png=_PICTURE,
        rle=RunLengthMask(**encode_rle(found.mask)),
    )


def _latency(record: RequestRecord) -> Latency:
    stages: dict[str, Any] = {
        stage: round(record.stage_seconds.get(stage, 0.0) * 1000, 2) for stage in STAGES
    }
    return Latency(**stages, total=round(record.elapsed_s() * 1000, 2))


def _warnings(findings: SegmentFindings) -> list[ResponseWarning]:
    decoded, boxes = findings.decoded, findings.form.boxes
    found = [*decoded.warnings, *findings.image_warnings]
    warnings = [ResponseWarning(code=str(one.code), message=one.message) for one in found]
    for number, mask in enumerate(findings.masks, start=1):
        place = f"Box {number}: " if len(boxes) > 1 else ""
        for one in check_mask(mask.mask, mask.score, mask.box, is_whole_image=not boxes):
            warnings.append(ResponseWarning(code=str(one.code), message=place + one.message))
    return warnings
