"""The same tasks on a kernel without Landlock and without filters of system calls."""

from __future__ import annotations

from typing import NoReturn

from service.workers import confinement, file_access
from tests.service.workers import worker_tasks

TASKS = worker_tasks.TASKS


def _refused() -> NoReturn:
    raise OSError("not on this kernel")


def warm_up() -> None:
    file_access.readable_paths = _refused
    confinement.forbid_system_calls = _refused  # type: ignore[attr-defined]  # imported there
