"""The warm-up runs the whole of decoding and rendering and leaves no thread behind."""

from __future__ import annotations

import subprocess
import sys

from service.imaging import warm_up


def test_it_runs() -> None:
    warm_up.decode_and_render_once()


def test_it_leaves_no_thread_behind_and_needs_no_torch() -> None:
    """Workers are forked from that process: a thread would be lost, its locks not."""
    lines = (
        "import os, sys",
        "from service.imaging.worker_tasks import warm_up",
        "warm_up()",
        "print(len(os.listdir('/proc/self/task')), 'torch' in sys.modules)",
    )
    environment = {"OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": ":".join(sys.path)}
    found = subprocess.run(
        [sys.executable, "-c", "; ".join(lines)],
        env=environment, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert found.stdout.split() == ["1", "False"]
