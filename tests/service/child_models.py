"""Models for compute processes of the tests: the first pixel of the image says what happens.

`GATE_FOLDER` names a folder for `GATED`: it writes `begun` there and waits for `go`.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from model_store.postprocessing import NetworkAnswer
from model_store.preprocessing import PreparedRequest
from model_store.self_test_result import SelfTestResult
from service.compute.hosted_model import DeviceLostError, OutOfDeviceMemoryError
from service.compute.model_handle import ModelRefusedError
from service.settings import Settings
from tests.service.fake_model import FakeInfo, answer_to

RAISE, OUT_OF_MEMORY, DEVICE_LOST, DIE, HANG, GATED = 201, 202, 203, 204, 205, 206
HANGS_S = 60


class TroubledModel:
    """Thresholds like `FakePredictor`, unless the first pixel asks for trouble.

    Its quality head says "inverted" as far as the first pixel is bright.
    """

    info: Any = FakeInfo()
    shares_calls = False

    def __init__(self) -> None:
        """Has freed nothing yet."""
        self._freed = self._recorded = 0

    def answer(self, request: PreparedRequest) -> NetworkAnswer:
        """Answers or does what the first pixel says."""
        first = int(request.pixels[0, 0])
        if first == RAISE:
            raise ValueError("DOE^JOHN")
        if first == OUT_OF_MEMORY:
            raise OutOfDeviceMemoryError("Tried to allocate DOE^JOHN")
        if first == DEVICE_LOST:
            raise DeviceLostError("DOE^JOHN")
        if first == DIE:
            os._exit(9)
        if first == GATED:
            folder = Path(os.environ["GATE_FOLDER"])
            (folder / "begun").touch()
            while not (folder / "go").exists():
                time.sleep(0.01)
        if first == HANG:
            time.sleep(HANGS_S)
        return dataclasses.replace(answer_to(request), quality={"inverted": first / 255})

    def answer_batch(self, requests: Sequence[PreparedRequest]) -> list[NetworkAnswer]:
        """Answers several; `encode_image` says how many there were."""
        found = [self.answer(request) for request in requests]
        return [NetworkAnswer(one.masks, {"encode_image": float(len(found))}) for one in found]

    def record_further(self) -> bool:
        """Has three things to record; fails at the third."""
        self._recorded += 1
        if self._recorded == 3:
            raise ValueError("DOE^JOHN")
        return True

    def self_test(self) -> SelfTestResult:
        """Passes, and shows the process, how often memory was freed, and what was recorded."""
        return SelfTestResult(True, float(self._freed), float(self._recorded), float(os.getpid()))

    def free_memory(self) -> None:
        """Counts."""
        self._freed += 1

    def gpu_memory(self) -> dict[str, int]:
        """Shows the kinds that a GPU has."""
        return {"allocated": 5, "reserved": 6, "total": 7}


class SharingModel(TroubledModel):
    """Takes images together, as a GPU does; the trouble of one is then the trouble of all."""

    shares_calls = True


def make_sharing(settings: Settings) -> SharingModel:
    """Makes a troubled model that takes images together."""
    return SharingModel()


def make(settings: Settings) -> TroubledModel:
    """Makes a troubled model."""
    return TroubledModel()


def refuse(settings: Settings) -> TroubledModel:
    """Finds no device."""
    raise ModelRefusedError("device is 'cuda', but there is none", is_setting=True)


def die(settings: Settings) -> TroubledModel:
    """Ends while loading."""
    os._exit(9)
