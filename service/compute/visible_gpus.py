"""The number of usable GPUs, which a short-lived child reads from NVIDIA's driver.

The serving process itself must not open a GPU: it would hold GPU memory as long as it runs, and a
hung driver would hang it. `CUDA_VISIBLE_DEVICES` has the same effect as for PyTorch.

`python -m service.compute.visible_gpus` prints the number.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading

_TIMEOUT_S = 60.0
_lock = threading.Lock()
_found: int | None = None


def visible_gpus() -> int:
    """Return the number of GPUs, 0 without a driver; a process determines it once."""
    global _found
    with _lock:
        if _found is None:
            _found = _count_in_subprocess()
        return _found


def environment_of(device: str, visible: str | None) -> dict[str, str]:
    """Return the environment that makes a process see only one GPU, as its first.

    Then every library in it uses that GPU.

    Args:
        device: `cuda:N`; the result is empty for any other.
        visible: value of `CUDA_VISIBLE_DEVICES` here; None if it is not set.
    """
    kind, _, number = device.partition(":")
    if kind != "cuda" or not number:
        return {}
    if visible is None:
        return {"CUDA_VISIBLE_DEVICES": number}
    names = [name.strip() for name in visible.split(",") if name.strip()]
    found = names[int(number)] if int(number) < len(names) else ""
    return {"CUDA_VISIBLE_DEVICES": found}


def _count_in_subprocess() -> int:
    command = [sys.executable, "-m", "service.compute.visible_gpus"]
    paths = os.pathsep.join(path for path in sys.path if path)
    try:
        answer = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": paths},
            timeout=_TIMEOUT_S,
            check=True,
        )
        return int(answer.stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return 0


def main() -> int:
    """Print the number; return the exit code, 0."""
    count = ctypes.c_int(0)
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
            count.value = 0
    except OSError:  # no driver
        pass
    print(count.value)
    return 0


if __name__ == "__main__":
    sys.exit(main())
