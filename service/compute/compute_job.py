"""One request in the compute thread, and its result."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

from model_store.model_info import ModelInfo
from service.caller_turns import SERVICE
from service.compute.network_data import NetworkInput, NetworkOutput


@dataclass(frozen=True)
class ComputeResult:
    """The model's result for one request.

    Attributes:
        output: the network's output, and the times of its stages.
        queue_s: seconds from queueing to the answer in which the model did not work on this
            request.
        batch_size: requests in its batch, itself included.
    """

    output: NetworkOutput
    model: ModelInfo
    queue_s: float
    batch_size: int


@dataclass(eq=False)
class Job:
    """One request in the worker.

    Attributes:
        given: input of the model.
        on_taken: called by the worker when it starts on this job.
        caller: whose turns it uses.
        future: gets the result, or the error; cancel it to withdraw.
        queued_at: `time.perf_counter()` when it was queued.
    """

    given: NetworkInput
    on_taken: Callable[[], None]
    caller: str = SERVICE
    future: Future[ComputeResult] = field(default_factory=Future)
    queued_at: float = field(default_factory=time.perf_counter)

    def refuse(self, error: Exception) -> None:
        """Answer with an error, unless the caller has left or already has its answer."""
        if self.future.done():
            return
        if self.future.running() or self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)
