"""The service with image workers and a network that repeat earlier answers immediately.

`python -m benchmarks.service.immediate_service FLAGS...` is `python -m service FLAGS...`. All
processes run and send their usual messages, but the work is done only once for each kind of task.
What remains is the work of the front: connections, uploads, admission, messages, answers. Do not
use it for X-rays: every upload gets the answer of the first one of the same length.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from service.compute.compute_child import ComputeChild
from service.compute.stored_model import StoredModel, make_stored_model
from service.imaging.worker_tasks import TASKS as REAL_TASKS
from service.imaging.worker_tasks import warm_up, warm_up_extras
from service.settings import Settings
from service.workers.task import Answer, Function, Task

__all__ = ["TASKS", "make_immediate_model", "warm_up", "warm_up_extras"]

_HERE = "benchmarks.service.immediate_service"
_VARYING = ("requested_at", "context", "facts")
"""Fields that differ between requests for the same answer."""


class ImmediateModel:
    """A stored model that computes the first answer for each input size and repeats it."""

    def __init__(self, model: StoredModel) -> None:
        """Wrap the model; its self-check still runs."""
        self._model = model
        self._known: dict[Hashable, Any] = {}

    def __getattr__(self, name: str) -> Any:
        """Return the wrapped model's attribute."""
        return getattr(self._model, name)

    def answer(self, request: Any) -> Any:
        """Return what the network said the first time."""
        key = (request.boxes, request.convention, request.structures)
        if key not in self._known:
            self._known[key] = self._model.answer(request)
        return self._known[key]

    def answer_batch(self, requests: Sequence[Any]) -> list[Any]:
        """Return what the network said the first time, for each."""
        return [self.answer(request) for request in requests]


def make_immediate_model(settings: Settings) -> ImmediateModel:
    """Load the stored model."""
    return ImmediateModel(make_stored_model(settings))


def _remembering(name: str, function: Function) -> Function:
    known: dict[Hashable, Answer] = {}

    def answer(task: Task) -> Answer:
        stable = {key: value for key, value in task.fields.items() if key not in _VARYING}
        sizes = tuple(blob.size_bytes for blob in task.blobs)
        key = (name, repr(stable), sizes)
        if key not in known:
            made = function(task)
            blobs = [bytes(piece) for piece in made.blobs]
            known[key] = Answer(dict(made.fields), made.body, blobs)
        return known[key]

    return answer


TASKS: Mapping[str, Function] = {
    name: _remembering(name, function) for name, function in REAL_TASKS.items()
}


def main() -> int:
    """Serve; return the service's exit code."""
    import service.app
    import service.pipeline.image_workers
    from service.__main__ import main as serve

    def start(settings: Settings) -> ComputeChild:
        return ComputeChild(settings, f"{_HERE}:make_immediate_model")

    def make(*arguments: Any, predictor_factory: Any, **options: Any) -> Any:
        predictor_factory.keywords["early"].close()
        return make_app(*arguments, predictor_factory=start, **options)

    make_app: Callable[..., Any] = service.app.create_app
    service.pipeline.image_workers._TASKS_MODULE = _HERE
    service.app.create_app = make  # type: ignore[assignment]
    return serve()


if __name__ == "__main__":
    sys.exit(main())
