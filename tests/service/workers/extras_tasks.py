"""Tasks of which some need extras; a folder that `EXTRAS_FOLDER` names says how loading them goes.

With `hold` in it loading waits until that is gone, with `fail` it raises, and with `hang` it never
ends. Each attempt leaves a line in `attempts`. `late_parts` in it is a package.
"""

from __future__ import annotations

import importlib
import mmap
import os
import sys
import time
from pathlib import Path

from service.workers.task import Answer, Task
from tests.service.workers import worker_tasks

EXTRA_BYTES = 256 << 20
_held: list[mmap.mmap] = []


def warm_up_extras() -> None:
    folder = Path(os.environ["EXTRAS_FOLDER"])
    with (folder / "attempts").open("a") as attempts:
        attempts.write("1\n")
    while (folder / "hold").exists() or (folder / "hang").exists():
        time.sleep(0.01)
    if (folder / "fail").exists():
        raise LookupError("Doe^Jane")
    sys.path.insert(0, str(folder))
    importlib.import_module("late_parts")
    _held.append(mmap.mmap(-1, EXTRA_BYTES))


def has_extras(task: Task) -> Answer:
    return Answer({"has_extras": bool(_held), "process": os.getpid()})


def import_part_of_extras(task: Task) -> Answer:
    return Answer({"answer": importlib.import_module("late_parts.part").ANSWER})


TASKS = {
    **worker_tasks.TASKS,
    **{each.__name__: each for each in (has_extras, import_part_of_extras)},
}
