# ruff: noqa: N818  (names say what happened to the task)
"""Errors of the worker pool, and reasons for a worker's end."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

LOST_SENTENCE = (
    "The image worker ended while the request was being worked on; another one takes its place. "
    "Send the request again."
)
COSTLY_SENTENCE = (
    "Reading or rendering the image takes more processor time or memory than an X-ray of its size "
    "needs. Sending it again will not help."
)


class EndReason(StrEnum):
    """Reasons for a worker's end; the closed set of a metric's label."""

    CPU_LIMIT = "cpu_limit"
    MEMORY_LIMIT = "memory_limit"
    CRASH = "crash"
    GARBLED = "garbled_answer"
    WALL_CLOCK = "wall_clock"
    KILLED = "killed"
    CANCELLED = "cancelled"
    RETIRED = "retired"
    NOT_STARTED = "not_started"
    TEMPLATE_LOST = "template_lost"

    @property
    def is_tasks_fault(self) -> bool:
        """Whether the task caused it: the same bytes would end the next worker, too."""
        return self in _TASKS_FAULT


_TASKS_FAULT = frozenset(
    {EndReason.CPU_LIMIT, EndReason.MEMORY_LIMIT, EndReason.CRASH, EndReason.GARBLED}
)


class WorkerError(Exception):
    """A task failed."""


class TooCostly(WorkerError):
    """The task met a limit of processor time or memory, or crashed its worker; 422, no retry."""

    def __init__(self, reason: EndReason) -> None:
        """Keep the reason; the message omits it, because it would only help attackers."""
        super().__init__(COSTLY_SENTENCE)
        self.reason = reason


class WorkerLost(WorkerError):
    """The worker ended for another reason than its task; 503, the task may be retried."""

    def __init__(self, reason: EndReason) -> None:
        """Keep the reason."""
        super().__init__(LOST_SENTENCE)
        self.reason = reason


class TaskRefused(WorkerError):
    """The task's function refused the input.

    Attributes:
        fields: its refusal as JSON, not trusted, because its process read hostile bytes.
    """

    def __init__(self, fields: Mapping[str, Any]) -> None:
        """Keep the refusal."""
        super().__init__("the task was refused")
        self.fields = fields


class TaskFailed(WorkerError):
    """The task's function raised an unexpected exception.

    Attributes:
        error_type: name of the exception's class.
        where: innermost frames as `file:line function`, without the exception's message.
    """

    def __init__(self, error_type: str, where: tuple[str, ...]) -> None:
        """Keep type and place."""
        super().__init__(error_type)
        self.error_type = error_type
        self.where = where


class PoolClosed(WorkerError):
    """The pool is closing and accepts no task."""
