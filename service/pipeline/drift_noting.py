"""Count where an answered X-ray's numbers are in the model's range of training.

Grey level and size always count. Confidence, area and warnings count only for the whole image at
the default threshold, as for the X-rays of training. A box around one lung gives another area,
which is not drift.
"""

from __future__ import annotations

from model_store.model_info import ModelInfo
from service.drift_counters import ComparedModel, DriftCounters
from service.imaging.segment_request import DEFAULT_THRESHOLD, SegmentRequest
from service.imaging.task_data import AnswerFacts
from service.imaging.warning_advice import Severity, gravest
from service.request_record import RequestRecord


def note_drift(
    counters: DriftCounters,
    request: SegmentRequest,
    record: RequestRecord,
    facts: AnswerFacts,
    model: ModelInfo,
) -> None:
    """Count one answered X-ray.

    Args:
        counters: counters of this process.
        request: the caller's request.
        record: record with size and grey level.
        facts: facts about the answer.
        model: the model that answered.
    """
    compared, numbers = compared_model(model), dict[str, float]()
    if record.grey_level is not None:
        numbers["grey_level"] = record.grey_level
    if record.width is not None and record.height is not None:
        numbers["pixels"] = record.width * record.height
    if not request.prompts and request.threshold == DEFAULT_THRESHOLD:
        for confidence, ratio in zip(facts.lungs_confidences, facts.area_ratios, strict=False):
            numbers |= {"confidence": confidence, "area_ratio": ratio}
        is_warned = gravest(str(code) for code in facts.warning_codes) in (
            Severity.LOOK,
            Severity.REFUSE,
        )
        counters.note_warned(compared, is_warned=is_warned)
    counters.note(numbers, compared)


def compared_model(info: ModelInfo) -> ComparedModel:
    """Return a model with its training range."""
    return ComparedModel(info.name, info.version, info.manifest.training_distributions)
