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

from model_store.model_info import ModelInfo
from service.compute.model_handle import Failure
from service.compute.network_data import BoxLogits, NetworkInput, NetworkOutput

PREDICT, SELF_TEST = "predict", "self_test"
_FLOAT_BYTES = 4


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


def send_inputs(connection: Connection, first_number: int, inputs: Sequence[NetworkInput]) -> None:
    """Sends X-rays with what is asked of them; they are numbered from `first_number` on.

    Raises:
        OSError: the other side is gone.
    """
    headers = [
        (number, one.side, one.width, one.height, one.boxes, one.convention, one.structures)
        for number, one in enumerate(inputs, start=first_number)
    ]
    connection.send((PREDICT, headers))
    for one in inputs:
        connection.send_bytes(one.pixels)


def receive_inputs(
    connection: Connection, headers: Sequence[Any]
) -> Iterator[tuple[int, NetworkInput]]:
    """Yields what `send_inputs` sent, with numbers, each as soon as it is there.

    `headers` came with the message before.
    """
    for number, *asked in headers:
        yield number, NetworkInput(connection.recv_bytes(), *asked)


def send_failure(
    connection: Connection, number: int, failure: Failure, gpu_bytes: Mapping[str, int]
) -> None:
    """Sends why there is no answer about one X-ray."""
    connection.send((number, failure, None, gpu_bytes))


def send_output(
    connection: Connection, number: int, output: NetworkOutput, gpu_bytes: Mapping[str, int]
) -> None:
    """Sends what the network says about one X-ray."""
    headers = [(one.box, one.side, one.score, one.structure) for one in output.masks]
    said = (dict(output.stage_seconds), output.quality)
    connection.send((number, headers, said, gpu_bytes))
    for one in output.masks:
        connection.send_bytes(one.logits)


def receive_output(
    connection: Connection, number: int
) -> tuple[NetworkOutput | Failure, Mapping[str, int]]:
    """Receives what the network says about the X-ray with this number, or why it says nothing.

    Beside it: the bytes of GPU memory by kind.

    Raises:
        EOFError: the other side is gone.
        OSError: likewise, or the answer belongs to another X-ray or has another size than it says.
    """
    answered, headers, said, gpu_bytes = connection.recv()
    if answered != number:
        raise OSError(f"answer {answered} came where answer {number} belongs")
    if isinstance(headers, Failure):
        return headers, gpu_bytes
    masks = tuple(
        BoxLogits(box, connection.recv_bytes(), side, score, structure)
        for box, side, score, structure in headers
    )
    if any(len(one.logits) != _FLOAT_BYTES * one.side**2 for one in masks):
        raise OSError("logits have another size than their header says")
    stage_seconds, quality = said
    return NetworkOutput(masks, stage_seconds, quality), gpu_bytes
