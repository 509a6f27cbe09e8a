"""What the serving process and the compute process say to each other, over one socket pair.

A small pickled header, then raw bytes: the network's input there, mask logits back, with the
default model 147 and 37 kB whatever the size of the X-ray. Raw bytes cost least (measured for 1 MB
there and 131 kB back, 2 cores, median of 30: raw 1.1 ms, pickled arrays 3.7 ms, shared memory
2.5 ms), and a socket leaves nothing behind when one side is killed, whereas a shared memory file
would, in a `/dev/shm` that containers keep small. Every request has a number, and its answer
carries it: an answer out of step would be another patient's mask. Both ends are the same code and
nobody else can reach the socket, so pickle is safe here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from model_store.prediction import ModelInfo
from model_store.preparation import MaskLogits, NetworkAnswer, PreparedRequest
from service.compute.model_handle import Failure

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


def send_requests(
    connection: Connection, first_number: int, requests: Sequence[PreparedRequest]
) -> None:
    """Sends X-rays with what is asked of them; they are numbered from `first_number` on.

    Raises:
        OSError: the other side is gone.
    """
    headers = [
        (number, one.pixels.shape, one.geometry, one.boxes, one.convention)
        for number, one in enumerate(requests, start=first_number)
    ]
    connection.send((PREDICT, headers))
    for one in requests:
        connection.send_bytes(np.ascontiguousarray(one.pixels).data.cast("B"))


def receive_requests(
    connection: Connection, headers: Sequence[Any]
) -> Iterator[tuple[int, PreparedRequest]]:
    """Yields what `send_requests` sent, with numbers, each as soon as it is there.

    `headers` came with the message before.
    """
    for number, shape, geometry, boxes, convention in headers:
        # A copy, since the predictor wants an array that may be written to.
        pixels = np.frombuffer(bytearray(connection.recv_bytes()), np.uint8).reshape(shape)
        yield number, PreparedRequest(pixels, geometry, boxes, convention)


def send_failure(
    connection: Connection, number: int, failure: Failure, gpu_bytes: Mapping[str, int]
) -> None:
    """Sends why there is no answer about one X-ray."""
    connection.send((number, failure, {}, gpu_bytes))


def send_answer(
    connection: Connection, number: int, answer: NetworkAnswer, gpu_bytes: Mapping[str, int]
) -> None:
    """Sends what the network says about one X-ray."""
    headers = [(one.box, one.logits.shape, one.score) for one in answer.masks]
    connection.send((number, headers, dict(answer.stage_seconds), gpu_bytes))
    for one in answer.masks:
        logits = np.ascontiguousarray(one.logits, np.float32)
        connection.send_bytes(logits.data.cast("B"))


def receive_answer(
    connection: Connection, number: int
) -> tuple[NetworkAnswer | Failure, Mapping[str, int]]:
    """Receives the answer about the X-ray with this number, or why there is none.

    Beside it: the bytes of GPU memory by kind.

    Raises:
        EOFError: the other side is gone.
        OSError: likewise, or the answer belongs to another X-ray.
    """
    answered, headers, stage_seconds, gpu_bytes = connection.recv()
    if answered != number:
        raise OSError(f"answer {answered} came where answer {number} belongs")
    if isinstance(headers, Failure):
        return headers, gpu_bytes
    masks = tuple(
        MaskLogits(box, np.frombuffer(connection.recv_bytes(), np.float32).reshape(shape), score)
        for box, shape, score in headers
    )
    return NetworkAnswer(masks, stage_seconds), gpu_bytes
