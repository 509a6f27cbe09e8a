"""Input and result of rendering an answer, apart from pictures: plain data without NumPy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from service.imaging.answer_schema import ModelIdentity
from service.imaging.dicom_options import DEFAULT_OPTIONS, ObjectOptions


@dataclass(frozen=True)
class AnswerContext:
    """The input of an answer beside the masks.

    Attributes:
        stage_seconds: seconds of the stages before `postprocess`.
        request_began_at: `time.perf_counter()` when the request began; one clock for all processes.
        requested_at: `time.perf_counter()` when the answer was requested; waiting counts as
            `render`.
        object_options: settings of the deployment for DICOM answers.
        kind: labels of the model's quality head; empty for an upright, whole frontal chest, and for
            a model without a head.
    """

    request_id: str
    model: ModelIdentity
    stage_seconds: Mapping[str, float]
    request_began_at: float
    requested_at: float
    object_options: ObjectOptions = DEFAULT_OPTIONS
    kind: tuple[str, ...] = ()


@dataclass(frozen=True)
class RenderedAnswer:
    """An answer, ready to be sent.

    Attributes:
        headers: the content of the JSON answer, for answers whose body is a picture.
        warning_codes: codes of the warnings given, each once.
        area_ratios: share of the image that each mask covers, 0 to 1.
        stage_seconds: seconds of `postprocess` and `render`.
        areas_px: pixels inside each answered mask.
        confidences: the confidence of each answered mask.
        lungs_confidences: the confidence of the model's lung mask in each box.
    """

    media_type: str
    body: bytes
    headers: Mapping[str, str]
    warning_codes: tuple[str, ...]
    area_ratios: tuple[float, ...]
    stage_seconds: Mapping[str, float]
    areas_px: tuple[int, ...] = ()
    confidences: tuple[float, ...] = ()
    lungs_confidences: tuple[float, ...] = ()
