"""Memory of a process and all that it has started, each shared page counted once (PSS)."""

from __future__ import annotations

from pathlib import Path


def tree_pss_bytes(process: int) -> int:
    """Return the proportional set size of a process and its descendants.

    Args:
        process: process id; one that has ended counts nothing.
    """
    return sum(pss_bytes(each) for each in process_tree(process))


def pss_bytes(process: int) -> int:
    """Return the proportional set size of one process, 0 when it has ended."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")]
    return found[0] if found else 0


def process_tree(process: int) -> list[int]:
    """Return a process and its descendants."""
    found, waiting = [], [process]
    while waiting:
        each = waiting.pop()
        found.append(each)
        waiting += _children(each)
    return found


def _children(process: int) -> list[int]:
    found: list[int] = []
    try:
        threads = list(Path(f"/proc/{process}/task").iterdir())
    except OSError:
        return []
    for thread in threads:
        try:
            found += map(int, (thread / "children").read_text(encoding="ascii").split())
        except OSError:
            continue
    return found
