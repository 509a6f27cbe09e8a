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


def test_an_answer_in_dicom_imports_nothing_more_than_its_own_warm_up_and_others_no_more() -> None:
    lines = (
        "import os, sys",
        "from service.imaging.worker_tasks import warm_up, warm_up_extras",
        "warm_up()",
        "plain = set(sys.modules)",
        "warm_up_extras()",
        "before = set(sys.modules)",
        "from tests.service.node_peers import objects_of, xray",
        "from tests.dicom_files import as_file",
        "file = as_file(xray())",
        "known = set(sys.modules)",
        "objects_of(file, ('seg', 'sc', 'sr', 'gsps'))",
        "print(*(set(sys.modules) - known))",
        "print('highdicom' in plain, 'pydicom.sr.codedict' in plain)",
        "print('highdicom' in before, 'pydicom.sr.codedict' in before)",
        "print(len(os.listdir('/proc/self/task')))",
    )
    found = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)],
        env={"OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert found.stdout.splitlines() == ["", "False False", "True True", "1"]
