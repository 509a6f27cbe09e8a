"""Messages between the serving process and the compute process, over one socket pair.

The network's input is sent and mask logits come back, as raw bytes after a small header
(`message_socket`). With the default model these are 147 and 37 kB, whatever the size of the X-ray.
Raw bytes are cheaper than pickled arrays and shared memory, and a socket leaves nothing behind when
one side is killed. X-rays sent together are one message, and so are answers of one call. Every
request has a number, which its answer repeats. Without it, an answer in the wrong order would give
another patient's mask. Both ends run the same code and no other process can reach the socket, so
pickle is safe here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from model_store.model_info import ModelInfo
from service.compute.message_socket import MessageSocket
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


def send_inputs(
    connection: MessageSocket, first_number: int, inputs: Sequence[NetworkInput]
) -> None:
    """Send X-rays with their requests, numbered from `first_number`.

    Raises:
        OSError: the other side is gone.
    """
    headers = [
        (number, one.side, one.width, one.height, one.boxes, one.convention, one.structures)
        for number, one in enumerate(inputs, start=first_number)
    ]
    connection.send((PREDICT, headers), [one.pixels for one in inputs])


def inputs_in(
    headers: Sequence[Any], pieces: Sequence[bytes]
) -> Iterator[tuple[int, NetworkInput]]:
    """Yield the requests of one message of `send_inputs`, with their numbers."""
    for (number, *prompt), pixels in zip(headers, pieces, strict=True):
        yield number, NetworkInput(pixels, *prompt)


def send_outputs(
    connection: MessageSocket,
    outputs: Sequence[tuple[int, NetworkOutput | Failure]],
    gpu_bytes: Mapping[str, int],
) -> None:
    """Send the network's outputs for X-rays, by their numbers, or the errors instead."""
    headers: list[tuple[Any, ...]] = []
    pieces: list[bytes] = []
    for number, found in outputs:
        if isinstance(found, Failure):
            headers.append((number, found))
            continue
        masks = [(one.box, one.side, one.score, one.structure) for one in found.masks]
        headers.append((number, masks, dict(found.stage_seconds), found.quality, found.together))
        pieces += [one.logits for one in found.masks]
    connection.send((headers, dict(gpu_bytes)), pieces)


def receive_outputs(
    connection: MessageSocket, first_number: int
) -> tuple[list[NetworkOutput | Failure], Mapping[str, int]]:
    """Receive the network's outputs for one or several X-rays, numbered from `first_number`.

    Also return the bytes of GPU memory by kind.

    Raises:
        EOFError: the other side is gone.
        OSError: likewise, or an answer belongs to another X-ray or has a wrong size.
    """
    (headers, gpu_bytes), pieces = connection.receive()
    found: list[NetworkOutput | Failure] = []
    logits = iter(pieces)
    for expected, (number, masks, *said) in enumerate(headers, start=first_number):
        if number != expected:
            raise OSError(f"answer {number} came where answer {expected} belongs")
        if isinstance(masks, Failure):
            found.append(masks)
        else:
            found.append(NetworkOutput(_masks(masks, logits), *said))
    if not found:
        raise OSError("a message of answers holds none")
    return found, gpu_bytes


def _masks(headers: Sequence[Any], logits: Iterator[bytes]) -> tuple[BoxLogits, ...]:
    masks = tuple(
        BoxLogits(box, next(logits, b""), side, score, structure)
        for box, side, score, structure in headers
    )
    if any(len(one.logits) != _FLOAT_BYTES * one.side**2 for one in masks):
        raise OSError("logits have another size than their header says")
    return masks
