"""The interface and the errors of a model, as the compute thread uses it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from model_store.model_info import ModelInfo
from model_store.self_test_result import SelfTestResult
from service.compute.network_data import NetworkInput, NetworkOutput

LOST_SENTENCE = (
    "The compute process ended while the request was being worked on; it is being started again. "
    "Send the request again."
)


@dataclass(frozen=True)
class Memory:
    """Memory of a model's process.

    Attributes:
        resident_bytes: main memory.
        gpu_bytes: GPU memory by kind (`allocated`, `reserved`, `total`); empty on a CPU.
    """

    resident_bytes: int = 0
    gpu_bytes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Failure:
    """The kind and place of a failed model call, without its message, which may quote the input.

    Attributes:
        error_type: name of the exception's class.
        where: functions of its traceback, outermost first.
        out_of_memory: whether the device's memory did not suffice.
        device_lost: whether this process can no longer use the device.
    """

    error_type: str
    where: tuple[str, ...]
    out_of_memory: bool = False
    device_lost: bool = False


class ModelRefusedError(Exception):
    """The model cannot be used; the message is a sentence for the operator.

    Attributes:
        is_setting: whether a setting is wrong, such as a missing device.
    """

    def __init__(self, sentence: str, *, is_setting: bool = False) -> None:
        """Keep the sentence."""
        super().__init__(sentence)
        self.is_setting = is_setting


class ModelCallError(Exception):
    """A model call raised.

    Attributes:
        failure: kind and place of the error, without its message.
    """

    def __init__(self, failure: Failure) -> None:
        """Keep the failure."""
        super().__init__(failure.error_type)
        self.failure = failure


class SegmentationModel(Protocol):
    """A loaded model; `service.compute.compute_child.ComputeChild` implements it."""

    @property
    def info(self) -> ModelInfo:
        """Name, version, digest, precision and device of the model."""

    @property
    def is_running(self) -> bool:
        """Whether the model's process is running."""

    @property
    def memory(self) -> Memory:
        """Memory of the model's process."""

    def answer_batch(self, inputs: Sequence[NetworkInput]) -> Iterable[NetworkOutput | Exception]:
        """Run the network on images, in this order; a failed image gives its error.

        Raises:
            ComputeLost: the model is gone, or its answers are out of step.
        """

    def answer_is_there(self, wake: int) -> bool:
        """Wait for the next answer, or until a descriptor is readable; False for the latter.

        Args:
            wake: the descriptor.

        Raises:
            ComputeLost: the model is gone.
        """

    def self_test(self) -> SelfTestResult:
        """Prove the model by its golden mask.

        Raises:
            ModelRefusedError: the golden files are missing or damaged.
            ModelCallError: the forward pass raised.
            ComputeLost: the model is gone.
        """

    def close(self) -> None:
        """End the model; may be called more than once."""
