"""The cost of an upload, estimated from its header before any pixel is decoded."""

from __future__ import annotations

from model_store.pictures.pixel_coding import PixelCoding
from service.errors import ImageTooCostly
from service.workers.costs import opening_budget_s
from service.workers.task import Task

MOST_MASK_PIXELS = 160_000_000
"""Most boxes times pixels of one request: 32 boxes on 5 million pixels, 4 on the largest X-ray.
Their masks, the model's and the answer's, then fit into a worker's memory."""


class StatedNeed:
    """Sets a task's time from the cost that a decoder states before it decodes pixels.

    Attributes:
        is_decoding: whether `state` was called; afterwards native code may read pixels.
    """

    def __init__(self, task: Task, upload_bytes: int, boxes: int = 0) -> None:
        """Keep the inputs of the cost.

        Args:
            task: the task that opens the file.
            upload_bytes: length of the file.
            boxes: number of requested boxes.
        """
        self.is_decoding = False
        self._task = task
        self._upload_bytes = upload_bytes
        self._boxes = boxes

    def state(self, coding: PixelCoding, pixels: int) -> None:
        """Set the task's CPU time to three times the need of an ordinary file of this kind.

        Raises:
            ImageTooCostly: there are too many boxes for so many pixels.
            NeedsMoreTime: the task is one of the costly ones.
        """
        asked_px = self._boxes * pixels
        if asked_px > MOST_MASK_PIXELS:
            raise ImageTooCostly(
                f"{self._boxes} boxes on {pixels} pixels are {asked_px} pixels of masks; a request "
                f"may ask for {MOST_MASK_PIXELS}. Send fewer boxes a request, or a smaller image."
            )
        self._task.needs_cpu(opening_budget_s(coding, pixels, self._upload_bytes))
        self.is_decoding = True
