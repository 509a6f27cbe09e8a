"""Runs a module in control groups: `python -m tests.service.in_group FILE[:FILE] MODULE ...`."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def main() -> None:
    """Join the groups whose `cgroup.procs` are named, and become the module."""
    for path in sys.argv[1].split(":"):
        Path(path).write_text(str(os.getpid()))
    os.execv(sys.executable, [sys.executable, "-m", *sys.argv[2:]])


if __name__ == "__main__":
    main()
