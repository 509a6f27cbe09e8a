"""Image tasks in threads of the test itself: the tasks are the real ones, the processes are not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from service.caller_turns import SERVICE
from service.imaging.worker_tasks import TASKS
from service.settings import Settings
from service.workers.errors import TaskFailed, TaskRefused, WorkerError
from service.workers.reply import Reply
from service.workers.shared_memory import Blob
from service.workers.task import Function, Refusal, Task


class InProcessPool:
    """Stands for `WorkerPool`.

    Attributes:
        ready: how many workers it says there are.
        tasks: functions by name.
        fails_with: error by name of a task, raised in place of its answer.
        asked: names of the tasks that were run.
        told: what each of them was told, as JSON.
        needing_extras: names of those that needed what few tasks need.
        is_prepared: whether it was said that such a task will come.
    """

    def __init__(self) -> None:
        """Has the service's own tasks."""
        self.ready = 1
        self.tasks: dict[str, Function] = dict(TASKS)
        self.fails_with: dict[str, WorkerError] = {}
        self.asked: list[str] = []
        self.told: list[str] = []
        self.needing_extras: list[str] = []
        self.is_prepared = False

    async def start(self) -> None:
        """Starts nothing."""

    async def close(self) -> None:
        """Ends nothing."""
        self.ready = 0

    def prepare_extras(self) -> None:
        """Notes it."""
        self.is_prepared = True

    async def run(
        self,
        task: str,
        fields: Mapping[str, Any] | None = None,
        body: bytes = b"",
        blobs: Sequence[Blob] = (),
        *,
        cpu_s: float,
        wall_s: float,
        most_cpu_s: float | None = None,
        is_costly: bool = False,
        urgency: int = 0,
        caller: str = SERVICE,
        needs_extras: bool = False,
    ) -> Reply:
        """Runs a task in a thread."""
        if needs_extras:
            self.needing_extras.append(task)
        self.asked.append(task)
        self.told.append(json.dumps(fields))
        if task in self.fails_with:
            raise self.fails_with[task]
        copies = [Blob.of(blob.read()) for blob in blobs]
        sent = Task(_crossed(fields or {}), body, copies, cpu_s, lambda seconds: None)
        return await asyncio.to_thread(self._answer, task, sent)

    def _answer(self, name: str, task: Task) -> Reply:
        try:
            answer = self.tasks[name](task)
            made = tuple(Blob.of(piece) for piece in answer.blobs)
        except Refusal as refusal:
            raise TaskRefused(_crossed(refusal.fields)) from None
        except Exception as error:
            raise TaskFailed(type(error).__name__, ()) from None
        finally:
            task.close()
        return Reply(_crossed(answer.fields), answer.body, made, 0.0, 0.0)


def in_process_pool(settings: Settings, on_ended: Callable[[str], None]) -> InProcessPool:
    """Makes one; for `create_app`."""
    return InProcessPool()


def _crossed(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What is left of fields on the other side."""
    found: dict[str, Any] = json.loads(json.dumps(fields))
    return found
