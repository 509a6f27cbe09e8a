"""The interface and the errors of the model inside the compute process, and its preparation.

The model translates its libraries' errors into these.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from service.logging import describe_error

if TYPE_CHECKING:
    from model_store.postprocessing import NetworkAnswer
    from model_store.prediction import ModelInfo
    from model_store.preprocessing import PreparedRequest
    from model_store.self_test_result import SelfTestResult

logger = logging.getLogger("service.compute_process")


class OutOfDeviceMemoryError(MemoryError):
    """The device's memory did not suffice."""


class DeviceLostError(Exception):
    """This process can no longer use the device."""


class HostedModel(Protocol):
    """A model inside the compute process; `service.compute.stored_model` implements it."""

    @property
    def info(self) -> ModelInfo:
        """Name, version, digest, precision and device of the model."""

    @property
    def shares_calls(self) -> bool:
        """Whether images sent together share a call, which must not change any mask."""

    def answer(self, request: PreparedRequest) -> NetworkAnswer:
        """Run the network on one image.

        Raises:
            MemoryError: the device's memory did not suffice.
            DeviceLostError: the device is lost.
        """

    def answer_batch(self, requests: Sequence[PreparedRequest]) -> Sequence[NetworkAnswer]:
        """Run the network on several images in one call, with the errors of `answer`."""

    def record_further(self) -> bool:
        """Do one more step of the preparation for faster calls; False when nothing is left."""

    def self_test(self) -> SelfTestResult:
        """Prove the model by its golden mask.

        Raises:
            ModelRefusedError: the golden files are missing or damaged.
        """

    def free_memory(self) -> None:
        """Release cached memory."""

    def gpu_memory(self) -> dict[str, int]:
        """Return bytes of GPU memory by kind; empty on a CPU."""


def record_once(model: HostedModel) -> bool:
    """Let the model prepare for larger batches; False if nothing is left, or it failed."""
    try:
        return model.record_further()
    except Exception as error:  # the border: what is already prepared still works
        logger.error("preparing for batches failed", extra={"fields": describe_error(error)})
        return False
