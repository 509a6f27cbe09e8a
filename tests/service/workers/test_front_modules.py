"""The side of the workers that the front runs opens no picture: it has nothing to open one with."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import sys
import service.workers.pool
heavy = {"PIL", "pydicom", "numpy", "torch", "multiprocessing.reduction"}
print(*sorted(heavy & set(sys.modules)))
"""


def test_the_front_side_of_the_workers_imports_no_picture_library_and_no_pickle_of_processes() -> (
    None
):
    found = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == []
