# ruff: noqa: N818  (names say what happened to the task)
"""What a caller of the worker pool may get instead of an answer, and why a worker ended."""

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
    """Why a worker ended; the closed set of a metric's label."""

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
        """Whether the task ended it: the same bytes would end the next worker too."""
        return self in _TASKS_FAULT


_TASKS_FAULT = frozenset(
    {EndReason.CPU_LIMIT, EndReason.MEMORY_LIMIT, EndReason.CRASH, EndReason.GARBLED}
)


class WorkerError(Exception):
    """A task has no answer."""


class TooCostly(WorkerError):
    """The task met a limit of processor time or memory, or crashed its worker; 422, no retry."""

    def __init__(self, reason: EndReason) -> None:
        """Keep the reason; the sentence names none, since it would help an attacker only."""
        super().__init__(COSTLY_SENTENCE)
        self.reason = reason


class WorkerLost(WorkerError):
    """The worker was ended by something else than its task; 503, the task may be sent again."""

    def __init__(self, reason: EndReason) -> None:
        """Keep the reason."""
        super().__init__(LOST_SENTENCE)
        self.reason = reason


class TaskRefused(WorkerError):
    """The task's function refused the input, in words of its own.

    Attributes:
        fields: what it said, as JSON; written by a process that met hostile bytes.
    """

    def __init__(self, fields: Mapping[str, Any]) -> None:
        """Keep what it said."""
        super().__init__("the task was refused")
        self.fields = fields


class TaskFailed(WorkerError):
    """The task's function raised something that it should not.

    Attributes:
        error_type: name of the exception's class.
        where: innermost frames as `file:line function`, without the exception's words.
    """

    def __init__(self, error_type: str, where: tuple[str, ...]) -> None:
        """Keep what is known."""
        super().__init__(error_type)
        self.error_type = error_type
        self.where = where


class PoolClosed(WorkerError):
    """The pool is closing and takes no task."""
