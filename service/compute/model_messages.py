"""What the serving process and the compute process say to each other, over one socket pair.

A small pickled header, then the pixels as raw bytes; masks come back with eight pixels a byte.
Raw bytes cost least (measured for a 1024 x 1024 image there and its mask back, 2 cores, median of
30: raw 1.1 ms, pickled arrays 3.7 ms, shared memory 2.5 ms), and a socket leaves nothing behind
when one side is killed, whereas a shared memory file would, in a `/dev/shm` that containers keep
small. Every request has a number, and its answer carries it: an answer out of step would be
another patient's mask. Both ends are the same code and nobody else can reach the socket, so
pickle is safe here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_store.prediction import MaskPrediction, ModelInfo, Prediction, PredictionRequest

PREDICT, SELF_TEST = "predict", "self_test"


@dataclass(frozen=True)
class Hello:
    """The first answer of the compute process: the model is loaded."""

    info: ModelInfo


@dataclass(frozen=True)
class Refusal:
    """The model cannot be used at all.

    Attributes:
        sentence: what is wrong, for the operator.
        is_setting: whether another setting would help (a device that is not there).
    """

    sentence: str
    is_setting: bool


@dataclass(frozen=True)
class Outcome:
    """Result of a self test; see `model_store.self_test.SelfTestResult`."""

    passed: bool
    agreement: float
    seconds: float


@dataclass(frozen=True)
class Failure:
    """A model call that raised: where and what kind, never its words, which may quote the input.

    Attributes:
        error_type: name of the exception's class.
        where: functions it passed, outermost first.
        out_of_memory: the device's memory did not suffice.
        device_lost: the device cannot be used by this process any more.
    """

    error_type: str
    where: tuple[str, ...]
    out_of_memory: bool = False
    device_lost: bool = False


@dataclass(frozen=True)
class Memory:
    """Memory of the compute process.

    Attributes:
        resident_bytes: main memory.
        gpu_bytes: GPU memory by kind (`allocated`, `reserved`, `total`); empty on a CPU.
    """

    resident_bytes: int = 0
    gpu_bytes: Mapping[str, int] = field(default_factory=dict)


def send_requests(
    connection: Connection, first_number: int, requests: Sequence[PredictionRequest]
) -> None:
    """Sends images with what is asked of them; they are numbered from `first_number` on.

    Raises:
        OSError: the other side is gone.
    """
    headers = [
        (number, one.image.shape, one.image.dtype.str, one.boxes, one.convention, one.threshold)
        for number, one in enumerate(requests, start=first_number)
    ]
    connection.send((PREDICT, headers))
    for one in requests:
        connection.send_bytes(np.ascontiguousarray(one.image).data.cast("B"))


def receive_requests(
    connection: Connection, headers: Sequence[Any]
) -> Iterator[tuple[int, PredictionRequest]]:
    """Yields what `send_requests` sent, with numbers, each as soon as it is there.

    `headers` came with the message before.
    """
    for number, shape, dtype, boxes, convention, threshold in headers:
        # A copy, since the predictor wants an array that may be written to.
        image = np.frombuffer(bytearray(connection.recv_bytes()), dtype=np.dtype(dtype))
        yield number, PredictionRequest(image.reshape(shape), boxes, convention, threshold)


def send_failure(connection: Connection, number: int, failure: Failure, memory: Memory) -> None:
    """Sends why there are no masks of one image."""
    connection.send((number, failure, {}, memory))


def send_prediction(
    connection: Connection, number: int, prediction: Prediction, memory: Memory
) -> None:
    """Sends the masks of one image."""
    headers = [(one.box, one.mask.shape, one.score) for one in prediction.masks]
    connection.send((number, headers, dict(prediction.stage_seconds), memory))
    for one in prediction.masks:
        connection.send_bytes(np.packbits(one.mask).data)


def receive_prediction(connection: Connection, number: int) -> tuple[Prediction | Failure, Memory]:
    """Receives the masks of the image with this number, or why there are none.

    Raises:
        EOFError: the other side is gone.
        OSError: likewise, or the answer belongs to another image.
    """
    answered, headers, stage_seconds, memory = connection.recv()
    if answered != number:
        raise OSError(f"answer {answered} came where answer {number} belongs")
    if isinstance(headers, Failure):
        return headers, memory
    masks = tuple(
        MaskPrediction(box, _unpacked(connection.recv_bytes(), shape), score)
        for box, shape, score in headers
    )
    return Prediction(masks, stage_seconds), memory


def _unpacked(data: bytes, shape: tuple[int, int]) -> NDArray[np.bool_]:
    bits = np.unpackbits(np.frombuffer(data, np.uint8), count=shape[0] * shape[1])
    mask: NDArray[np.bool_] = bits.view(np.bool_).reshape(shape)
    return mask
