"""What the compute process needs of the model that it holds, and how that model fails.

The model knows its libraries' errors; the process knows these kinds alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from model_store.postprocessing import NetworkAnswer
    from model_store.prediction import ModelInfo
    from model_store.preprocessing import PreparedRequest
    from model_store.self_test_result import SelfTestResult


class OutOfDeviceMemoryError(MemoryError):
    """The device's memory did not suffice."""


class DeviceLostError(Exception):
    """The device cannot be used by this process any more."""


class HostedModel(Protocol):
    """A model inside the compute process; `service.compute.stored_model` has the real one."""

    @property
    def info(self) -> ModelInfo:
        """Name, version, digest, precision and device of the model."""

    @property
    def shares_calls(self) -> bool:
        """Whether images handed over together share a call, because each mask stays the same."""

    def answer(self, request: PreparedRequest) -> NetworkAnswer:
        """Run the network on one image.

        Raises:
            MemoryError: the device's memory did not suffice.
            DeviceLostError: the device cannot be used any more.
        """

    def answer_batch(self, requests: Sequence[PreparedRequest]) -> Sequence[NetworkAnswer]:
        """Run the network on several images in one call; raise as `answer` does."""

    def record_further(self) -> bool:
        """Do one more piece of what makes later calls faster; False when nothing is left."""

    def self_test(self) -> SelfTestResult:
        """Prove the model by its golden mask.

        Raises:
            ModelRefusedError: the golden files are missing or damaged.
        """

    def free_memory(self) -> None:
        """Give memory back that is only kept for later use."""

    def gpu_memory(self) -> dict[str, int]:
        """Return bytes of GPU memory by kind; empty on a CPU."""
