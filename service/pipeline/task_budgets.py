"""Limits on CPU time and wall time of image tasks."""

from __future__ import annotations

from dataclasses import dataclass

from service.imaging.segment_request import LungChoice, MaskShape, SegmentRequest
from service.workers.costs import (
    ORDINARY_RENDERING_S,
    first_grant_s,
    most_opening_budget_s,
    rendering_budget_s,
)

_WALL_PER_CPU_S = 10.0
"""Ratio of wall time to CPU time: a worker may share its core, and wall time limits tasks that use
no CPU."""
_LEAST_WALL_S = 20.0


@dataclass(frozen=True)
class TaskBudget:
    """Bounds of one task.

    Attributes:
        cpu_s: CPU time, seconds.
        most_cpu_s: most CPU time that a worker may request after reading the header.
        is_costly: whether it is one of those that get at most half of the workers.
    """

    cpu_s: float
    most_cpu_s: float
    is_costly: bool = False

    @property
    def wall_s(self) -> float:
        """Wall time from its start, seconds."""
        return max(_LEAST_WALL_S, _WALL_PER_CPU_S * self.most_cpu_s)


def opening_budget(upload_bytes: int, max_pixels: int) -> TaskBudget:
    """Return the limits for opening an upload.

    Args:
        upload_bytes: length of the file.
        max_pixels: most pixels that it may have.
    """
    first_s = first_grant_s(upload_bytes)
    return TaskBudget(first_s, max(first_s, most_opening_budget_s(max_pixels, upload_bytes)))


def answering_budget(pixels: int, masks: int, request: SegmentRequest) -> TaskBudget:
    """Return the limits for making masks and rendering them.

    Args:
        pixels: pixels of the X-ray.
        masks: number of masks in the answer.
        request: the caller's request; each addition to plain masks counts as a further picture.
    """
    is_apart = request.lungs is not LungChoice.BOTH
    pictures = sum(
        (
            request.overlay_in_answer is not None,
            request.view is not None,
            request.wants_legend,
            request.wants_measurements,
            request.drops_islands,
            len(request.shapes - {MaskShape.PNG, MaskShape.RLE}),
            is_apart,
            len(request.objects) if request.needs_dicom else 0,
        )
    )
    each_s = rendering_budget_s(pixels, 2 * masks if is_apart else masks, wants_overlay=True)
    needed_s = max(1, pictures) * each_s
    return TaskBudget(
        max(needed_s, ORDINARY_RENDERING_S), needed_s, is_costly=needed_s > ORDINARY_RENDERING_S
    )
