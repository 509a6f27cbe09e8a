"""What an upload costs, judged once its header is read and before any pixel is decoded."""

from __future__ import annotations

from model_store.pictures.pixel_coding import BeforeDecoding, PixelCoding
from service.errors import ImageTooCostly
from service.workers.costs import opening_budget_s
from service.workers.task import Task

MOST_MASK_PIXELS = 160_000_000
"""Boxes times pixels of one request: 32 boxes on 5 million pixels, 4 on the largest X-ray. Their
masks, as found and as answered, then fit into a worker's memory."""


def stating_the_need(task: Task, upload_bytes: int, boxes: int = 0) -> BeforeDecoding:
    """Returns what a decoder calls with coding and size.

    It sets the task's processor time to three times what an honest file of this kind needs.

    Args:
        task: the task that opens the file.
        upload_bytes: length of the file.
        boxes: boxes that masks are asked for.
    """

    def state(coding: PixelCoding, pixels: int) -> None:
        if boxes * pixels > MOST_MASK_PIXELS:
            raise ImageTooCostly(
                f"{boxes} boxes on {pixels} pixels are {boxes * pixels} pixels of masks; a request "
                f"may ask for {MOST_MASK_PIXELS}. Send fewer boxes a request, or a smaller image."
            )
        task.needs_cpu(opening_budget_s(coding, pixels, upload_bytes))

    return state
