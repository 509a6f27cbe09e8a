"""Readiness of several devices as one: the service is ready while any of them is proven."""

from __future__ import annotations

import threading
from collections.abc import Callable

from model_store.self_test_result import SelfTestResult
from service.compute.readiness import ReadinessSink, State


class FleetReadiness:
    """Combines the states that devices' loaders report into the process's readiness.

    A device that is lost or fails its self test only reduces capacity; the last ready one makes the
    service unready.
    """

    def __init__(self, readiness: ReadinessSink) -> None:
        """Start without devices; changes go to `readiness`."""
        self._readiness = readiness
        self._lock = threading.Lock()
        self._states: list[State] = []

    def add_device(self) -> DeviceReadiness:
        """Add a device that is loading; return the sink for its state."""
        with self._lock:
            self._states.append(State.LOADING)
            number = len(self._states) - 1
        return DeviceReadiness(lambda state, tell: self._note(number, state, tell))

    @property
    def ready_devices(self) -> int:
        """Devices whose model is proven."""
        return self._states.count(State.READY)

    def _note(self, number: int, state: State, tell: Callable[[ReadinessSink], None]) -> None:
        with self._lock:
            self._states[number] = state
            others = self._states[:number] + self._states[number + 1 :]
            if state is State.READY or State.READY not in others:
                may_come = State.LOADING in others or State.RECOVERING in others
                if state is not State.BROKEN or not may_come:
                    tell(self._readiness)


class DeviceReadiness:
    """Receives the state of one device; its methods are those of `Readiness`."""

    def __init__(self, note: Callable[[State, Callable[[ReadinessSink], None]], None]) -> None:
        """Keep the fleet's readiness, and the function that reports a state to it."""
        self._note = note

    def mark_ready(self, self_test: SelfTestResult) -> None:
        """Note that the device's model gave the golden mask."""
        self._note(State.READY, lambda readiness: readiness.mark_ready(self_test))

    def mark_recovering(self, reason: str) -> None:
        """Note that the device's model is gone and another starts."""
        self._note(State.RECOVERING, lambda readiness: readiness.mark_recovering(reason))

    def mark_broken(self, reason: str) -> None:
        """Note that the device will never give masks."""
        self._note(State.BROKEN, lambda readiness: readiness.mark_broken(reason))
