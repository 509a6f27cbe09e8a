"""Whether this process may answer with masks: a state, and the reason if it may not.

The state moves loading -> ready -> draining, or loading -> broken. A ready process whose compute
process is lost, or whose self test fails, is recovering until a new one is proven. Ready means that
a real forward pass on this machine gave the stored golden mask, and that an image worker decoded
the golden image. Otherwise the service gives no mask, because a silently wrong mask is the worst
failure.
"""

from __future__ import annotations

import threading
from enum import Enum
from typing import Protocol

from model_store.self_test_result import SelfTestResult
from service.errors import Draining, NotReady

LOADING_RETRY_S = 2
BROKEN_RETRY_S = 30
DRAINING_RETRY_S = 5


class State(Enum):
    """The states of the process."""

    LOADING = "loading"
    READY = "ready"
    RECOVERING = "recovering"
    BROKEN = "broken"
    DRAINING = "draining"


class ReadinessSink(Protocol):
    """Receives the state of a model; its methods are those of `Readiness`."""

    def mark_ready(self, self_test: SelfTestResult) -> None:
        """Note that the model gave the golden mask."""

    def mark_recovering(self, reason: str) -> None:
        """Note that the model is gone and another process starts."""

    def mark_broken(self, reason: str) -> None:
        """Note that the model will never give masks."""


class Readiness:
    """The state of the process. Thread-safe."""

    def __init__(self) -> None:
        """Start in the state `loading`."""
        self._lock = threading.Lock()
        self._state = State.LOADING
        self._reason = "The model is loading."
        self._self_test: SelfTestResult | None = None
        self._has_images = False
        self._images_state = State.LOADING
        self._images_reason = "The image workers are starting."
        self._has_other_models = False

    @property
    def state(self) -> State:
        """The current state."""
        return self._current()[0]

    def _current(self) -> tuple[State, str]:
        if self._state is State.READY and not self._has_images:
            return self._images_state, self._images_reason
        return self._state, self._reason

    @property
    def self_test(self) -> SelfTestResult | None:
        """The passed self test, or None before it."""
        return self._self_test

    def mark_ready(self, self_test: SelfTestResult) -> None:
        """Make the service ready after a passed self test; a draining process stays draining."""
        with self._lock:
            self._self_test = self_test
            if self._state in (State.LOADING, State.RECOVERING):
                self._state = State.READY

    def mark_recovering(self, reason: str) -> None:
        """Make the service unready until `mark_ready`; callers see the sentence `reason`."""
        with self._lock:
            if self._state is not State.DRAINING:
                self._state = State.RECOVERING
                self._reason = reason

    def mark_broken(self, reason: str) -> None:
        """Make the service unready forever; callers see the sentence `reason`."""
        with self._lock:
            if self._state is not State.DRAINING:
                self._state = State.BROKEN
                self._reason = reason

    def mark_images_ready(self) -> None:
        """Note that an image worker decoded the golden image."""
        with self._lock:
            self._has_images = True

    def mark_images_lost(self, reason: str) -> None:
        """Make the service unready until `mark_images_ready`; callers see `reason`."""
        with self._lock:
            if self._has_images:
                self._images_state = State.RECOVERING
            self._has_images = False
            self._images_reason = reason

    def mark_draining(self) -> None:
        """Make the service unready because the process stops."""
        with self._lock:
            self._state = State.DRAINING

    def note_other_models(self, are_there: bool) -> None:
        """Note whether another of several served models gives masks."""
        with self._lock:
            self._has_other_models = are_there

    def require_some_model(self) -> None:
        """Accept a request whose model is not known yet, or refuse it like `require_ready`."""
        with self._lock:
            has_other = self._has_other_models and self._has_images
            if has_other and self._state is State.RECOVERING:
                return
        self.require_ready()

    def require_ready(self) -> None:
        """Accept a request, or refuse it.

        Raises:
            NotReady: the model is loading, recovering or broken.
            Draining: the process is shutting down.
        """
        with self._lock:
            state, reason = self._current()
        if state in (State.LOADING, State.RECOVERING):
            raise NotReady(reason, retry_after_s=LOADING_RETRY_S)
        if state is State.BROKEN:
            raise NotReady(reason, retry_after_s=BROKEN_RETRY_S)
        if state is State.DRAINING:
            raise Draining(
                "The service is shutting down; send the request to another instance.",
                retry_after_s=DRAINING_RETRY_S,
            )
