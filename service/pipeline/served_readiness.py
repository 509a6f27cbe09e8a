"""Readiness of several models as one: all must be proven before the first mask is given.

Later the first model, the default, decides whether the service is ready. Another lost model only
refuses its own requests.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from model_store.self_test_result import SelfTestResult
from service.compute.readiness import Readiness, ReadinessSink, State


class ServedReadiness:
    """Combine the readiness of each model into that of the process."""

    def __init__(
        self, readiness: Readiness, models: int, objection: Callable[[], str | None]
    ) -> None:
        """Start with every model loading.

        Args:
            readiness: of the process.
            models: number of models.
            objection: called when all are proven; a returned sentence, why they cannot be served
                together, makes the service unready forever.
        """
        self._readiness = readiness
        self._objection = objection
        self._lock = threading.Lock()
        self._states = [State.LOADING] * models
        self._was_open = False
        self._first_test: SelfTestResult | None = None

    def of_model(self, number: int) -> ReadinessSink:
        """Return the readiness of one model, for its reports; 0 is the first."""
        return _ModelReadiness(self, number)

    def is_ready(self, number: int) -> bool:
        """Return whether a model is proven."""
        return self._states[number] is State.READY

    def note_ready(self, number: int, self_test: SelfTestResult) -> None:
        """Note that a model gave its golden mask."""
        with self._lock:
            self._states[number] = State.READY
            if number == 0:
                self._first_test = self_test
            if not self._was_open and set(self._states) == {State.READY}:
                objection = self._objection()
                if objection is not None:
                    self._readiness.mark_broken(objection)
                    return
                self._was_open = True
            if self._was_open and self._states[0] is State.READY:
                assert self._first_test is not None  # the service is ready
                self._readiness.mark_ready(self._first_test)
            self._note_others()

    def note_closed(self, number: int, state: State, tell: Callable[[Readiness], None]) -> None:
        """Note that a model gives no masks, for now or forever."""
        with self._lock:
            self._states[number] = state
            if number == 0 or not self._was_open:
                tell(self._readiness)
            self._note_others()

    def _note_others(self) -> None:
        self._readiness.note_other_models(self._was_open and State.READY in self._states[1:])


class _ModelReadiness:
    """Readiness of one model; its methods are those of `Readiness`."""

    def __init__(self, gathered: ServedReadiness, number: int) -> None:
        self._gathered = gathered
        self._number = number

    def mark_ready(self, self_test: SelfTestResult) -> None:
        """Note that the model gave the golden mask."""
        self._gathered.note_ready(self._number, self_test)

    def mark_recovering(self, reason: str) -> None:
        """Note that the model is gone; another process is being started."""
        self._gathered.note_closed(
            self._number, State.RECOVERING, lambda readiness: readiness.mark_recovering(reason)
        )

    def mark_broken(self, reason: str) -> None:
        """Note that the model gives no masks, for good."""
        self._gathered.note_closed(
            self._number, State.BROKEN, lambda readiness: readiness.mark_broken(reason)
        )
