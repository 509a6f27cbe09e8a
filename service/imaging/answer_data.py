"""Input and result of rendering an answer, apart from pictures: plain data without NumPy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from service.imaging.answer_schema import ModelIdentity
from service.imaging.dicom_options import DEFAULT_OPTIONS, ObjectOptions


@dataclass(frozen=True)
class AnswerContext:
    """What an answer says beside what was found.

    Attributes:
        stage_seconds: seconds of the stages before `postprocess`.
        request_began_at: `time.perf_counter()` when the request began; one clock for all processes.
        requested_at: `time.perf_counter()` when it was requested; waiting counts as `render`.
        object_options: what the deployment chose for DICOM answers.
        kind: what the model's quality head says of the picture, by its labels; empty where it
            finds an upright, whole frontal chest, and from a model without such a head.
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
        headers: what the JSON body says, for answers whose body is a picture.
        warning_codes: codes of the warnings given, each once.
        area_ratios: share of the image that each mask covers, 0 to 1.
        stage_seconds: seconds of `postprocess` and `render`.
        areas_px: pixels inside each answered mask.
        confidences: the confidence of each answered mask.
        lungs_confidences: the confidence of the lungs as found, by boxes.
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
