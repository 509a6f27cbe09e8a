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
from numpy.typing import NDArray
from starlette.responses import Response

from model_store.pictures.picture_reading import Picture
from service.errors import NotAcceptable
from service.http.form import SegmentForm
from service.imaging.answer_kind import AnswerKind
from service.imaging.mask_checks import check_mask
from service.imaging.picture_errors import warnings_of
from service.imaging.png_encoding import encode_png
from service.imaging.rendering import encode_mask_png, encode_rle, overlay_colours
from service.imaging.response_warnings import Warning_
from service.imaging.schemas import (
    ImageSize,
    Latency,
    ModelIdentity,
    ResponseWarning,
    RunLengthMask,
    SegmentAnswer,
    SegmentedMask,
)
from service.imaging.side_thread import Both, in_turn
from service.metrics import STAGES
from service.request_record import RequestRecord

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
    decoded: Picture
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
    kind: AnswerKind,
    findings: SegmentFindings,
    record: RequestRecord,
    began: float,
    both: Both = in_turn,
) -> Response:
    """Renders the answer in the form asked for.

    Args:
        kind: the form.
        findings: image, masks and model.
        record: gets the time of the stage `render` and the codes of the warnings.
        began: `time.perf_counter()` when rendering was asked for.
        both: does two pieces of the work, at once where each has a core.

    Returns:
        The answer, complete but for the headers that every answer has.
    """
    if kind is AnswerKind.JSON:
        response = _json_answer(findings, record, began, both)
    else:
        _note_warnings(record, _warnings(findings))
        answer = _png_answer if kind is AnswerKind.PNG else _dicom_answer
        response = answer(findings, record, began)
    response.headers["Vary"] = "Accept"
    return response


def _note_warnings(record: RequestRecord, warnings: Sequence[ResponseWarning]) -> None:
    record.warning_codes = tuple(dict.fromkeys(warning.code for warning in warnings))


def _json_answer(
    findings: SegmentFindings, record: RequestRecord, began: float, both: Both
) -> Response:
    form = findings.form
    colours, (warnings, masks, pictures) = both(
        lambda: _overlay_of(findings) if form.wants_overlay else None,
        lambda: _described(findings),
    )
    _note_warnings(record, warnings)
    if colours is not None:
        pictures.append(encode_png(colours, both))
    encoded = [pybase64.b64encode(picture) for picture in pictures]
    record.stage_seconds["render"] = time.perf_counter() - began
    answer = SegmentAnswer(
        request_id=record.request_id,
        model=identity_of(findings.model),
        image=ImageSize(width=findings.decoded.width, height=findings.decoded.height),
        convention=form.convention,
        threshold=form.threshold,
        masks=masks,
        overlay_png=None if colours is None else _PICTURE,
        latency_ms=_latency(record),
        warnings=tuple(warnings),
    )
    return Response(_with_pictures(answer, encoded), media_type=AnswerKind.JSON.value)


def _overlay_of(findings: SegmentFindings) -> NDArray[np.uint32]:
    masks = [found.mask for found in findings.masks]
    return overlay_colours(findings.decoded.pixels, masks, findings.form.boxes)


def _described(
    findings: SegmentFindings,
) -> tuple[list[ResponseWarning], tuple[SegmentedMask, ...], list[bytes]]:
    """Returns what looks wrong, what is said of each mask, and the masks' pictures."""
    masks = tuple(_segmented(found) for found in findings.masks)
    pictures = [encode_mask_png(found.mask) for found in findings.masks]
    return _warnings(findings), masks, pictures


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
    from service.imaging.dicom_segmentation import (
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
    found = [*warnings_of(decoded.warnings), *findings.image_warnings]
    warnings = [ResponseWarning(code=str(one.code), message=one.message) for one in found]
    for number, mask in enumerate(findings.masks, start=1):
        place = f"Box {number}: " if len(boxes) > 1 else ""
        for one in check_mask(mask, is_whole_image=not boxes):
            warnings.append(ResponseWarning(code=str(one.code), message=place + one.message))
    return warnings
