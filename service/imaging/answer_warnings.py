"""The warnings of one answer, in order: about file, picture, masks, and changes to masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from model_store.prediction import MaskPrediction
from service.imaging.answer_checks import check_answer
from service.imaging.answer_schema import ResponseWarning
from service.imaging.heart import check_heart, ratio_remarks
from service.imaging.opening import OpenedXray
from service.imaging.picture_errors import warnings_of
from service.imaging.response_warnings import ImageWarning
from service.imaging.upright import doubtful_turn
from service.imaging.warning_advice import advice_on


@dataclass(frozen=True)
class FoundMasks:
    """The model's result on the upright X-ray.

    Attributes:
        lungs: one mask for each box; empty if not requested.
        hearts: likewise.
        kind: labels of its quality head.
        is_turn_doubtful: whether the header's orientation of the X-ray is probably wrong.
    """

    lungs: Sequence[MaskPrediction]
    hearts: Sequence[MaskPrediction] = ()
    kind: tuple[str, ...] = ()
    is_turn_doubtful: bool = False


def warnings_about(
    opened: OpenedXray, found: FoundMasks, remarks: Sequence[ImageWarning]
) -> list[ResponseWarning]:
    """Return the warnings of an answer.

    Args:
        opened: the X-ray with its request.
        found: the model's result.
        remarks: warnings about changes to the masks.
    """
    request = opened.request
    before = [*warnings_of(opened.decoded.warnings), *opened.remarks]
    if found.is_turn_doubtful:
        before.append(doubtful_turn())
    pixels = opened.decoded.upright
    checked = check_answer(found.lungs, pixels, found.kind, is_whole_image=not request.prompts)
    warnings = [response_warning(one) for one in (*before, *checked.picture)]
    by_mask = [*checked.masks, *(check_heart(heart) for heart in found.hearts)]
    numbers = [*range(len(found.lungs)), *range(len(found.hearts))]
    for number, on_mask in zip(numbers, by_mask, strict=True):
        place = f"Box {number + 1}: " if len(request.prompts) > 1 else ""
        warnings += [response_warning(one, place) for one in on_mask]
    on_ratio = ratio_remarks(opened.scale.projection) if request.wants_ratio else []
    return [*warnings, *(response_warning(one) for one in (*on_ratio, *remarks))]


def response_warning(remark: ImageWarning, place: str = "") -> ResponseWarning:
    """Return a warning as in the answer, with severity and action.

    Args:
        remark: code and message of the warning.
        place: subject that precedes its message.
    """
    advice = advice_on(remark.code)
    return ResponseWarning(
        code=str(remark.code),
        message=place + remark.message,
        severity=str(advice.severity),
        action=advice.action,
    )
