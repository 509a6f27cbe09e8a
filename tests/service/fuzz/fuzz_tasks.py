"""What a worker does with a mutant: all that it would do with an upload before the network."""

from __future__ import annotations

from model_store.grey_levels import grey_histogram
from model_store.pictures.picture_errors import PictureError
from model_store.pictures.picture_reading import read_picture
from model_store.prediction import PredictionRequest
from model_store.preprocessing import prepare
from service.imaging.mask_checks import check_image
from service.workers.task import Answer, Refusal, Task

MAX_PIXELS = 4_000_000


def read(task: Task) -> Answer:
    try:
        picture = read_picture(bytes(task.map(0)), max_pixels=MAX_PIXELS)
    except PictureError as error:
        raise Refusal({"code": error.code}) from None
    histogram = grey_histogram(picture.pixels)
    prepare(PredictionRequest(picture.pixels), 256, histogram)
    check_image(histogram)
    return Answer({"side": max(picture.pixels.shape)}, blobs=[picture.pixels.data.cast("B")])


TASKS = {"read": read}
