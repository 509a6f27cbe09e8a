"""The shadow model's process: it computes while a processor is idle.

`make_shadow_model` runs in that process before PyTorch starts its threads, which inherit the
priority set here. NumPy's threads run already. On Linux each thread has its own priority, so theirs
are set one by one.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from service.compute.compute_child import ComputeChild
from service.settings import Settings

if TYPE_CHECKING:
    from service.compute.stored_model import StoredModel

SHADOW_MODEL = "service.compute.shadow_model:make_shadow_model"
LOWEST_PRIORITY = 19
FIRST_TO_BE_KILLED = "1000"
"""Value of `oom_score_adj`: when memory is short, the kernel kills this process first."""


def start_shadow_child(settings: Settings) -> ComputeChild:
    """Start a compute process for the shadow model; raises as `ComputeChild`."""
    return ComputeChild(settings, SHADOW_MODEL)


def make_shadow_model(settings: Settings) -> StoredModel:
    """Load the configured model in a process of the lowest priority."""
    give_way()
    from service.compute.stored_model import make_stored_model  # starts PyTorch's threads

    return make_stored_model(settings)


def give_way() -> None:
    """Give this process the lowest priority for processor time and memory."""
    for thread in _threads():
        with contextlib.suppress(OSError):  # it has ended, or a sandbox has no policies
            os.setpriority(os.PRIO_PROCESS, thread, LOWEST_PRIORITY)
            if hasattr(os, "SCHED_IDLE"):
                os.sched_setscheduler(thread, os.SCHED_IDLE, os.sched_param(0))
    with contextlib.suppress(OSError):  # not on Linux
        Path("/proc/self/oom_score_adj").write_text(FIRST_TO_BE_KILLED, encoding="ascii")


def _threads() -> list[int]:
    """Return the ids of this process's threads; only 0, the calling one, if they are unknown."""
    try:
        return [int(one.name) for one in Path("/proc/self/task").iterdir()]
    except OSError:
        return [0]
