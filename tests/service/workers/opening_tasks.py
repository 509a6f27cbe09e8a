"""Opens a picture as the service does, within the budget of its coding and size."""

from __future__ import annotations

from model_store.grey_levels import grey_histogram
from model_store.pictures.picture_errors import PictureError
from model_store.pictures.picture_reading import read_picture
from model_store.pictures.pixel_coding import PixelCoding
from model_store.prediction import PredictionRequest
from model_store.preprocessing import prepare
from service.workers.costs import opening_budget_s
from service.workers.task import Answer, Refusal, Task

MAX_PIXELS = 40_000_000


def read(task: Task) -> Answer:
    data = bytes(task.map(0))

    def state_need(coding: PixelCoding, pixels: int) -> None:
        task.needs_cpu(opening_budget_s(coding, pixels, len(data)))

    try:
        picture = read_picture(data, max_pixels=MAX_PIXELS, before_decoding=state_need)
    except PictureError as error:
        raise Refusal({"code": error.code}) from None
    prepare(PredictionRequest(picture.pixels), 256, grey_histogram(picture.pixels))
    return Answer({"pixels": picture.pixels.size}, blobs=[picture.pixels.data.cast("B")])


TASKS = {"read": read}
