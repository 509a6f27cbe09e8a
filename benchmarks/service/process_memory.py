"""Memory of a process and its descendants, each shared page counted once (PSS)."""

from __future__ import annotations

from pathlib import Path


def tree_pss_bytes(process: int) -> int:
    """Return the proportional set size of a process and its descendants.

    Args:
        process: process id; one that has ended counts nothing.
    """
    return sum(pss_bytes(each) for each in process_tree(process))


def tree_unmapped_bytes(process: int) -> int:
    """Return the proportional set size of a process and its descendants without pages of files.

    Library pages are shared with every process of the machine that maps them, so a process's share
    grows when unrelated processes end. Leaks appear in anonymous or shared memory.

    Args:
        process: process id; one that has ended counts nothing.
    """
    found = [_rollup(each) for each in process_tree(process)]
    return sum(one.get("Pss:", 0) - one.get("Pss_File:", 0) for one in found)


def pss_bytes(process: int) -> int:
    """Return the proportional set size of one process, 0 when it has ended."""
    return _rollup(process).get("Pss:", 0)


def _rollup(process: int) -> dict[str, int]:
    """Return the kernel's sums over a process's memory, in bytes by name."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:
        return {}
    return {words[0]: int(words[1]) * 1024 for line in lines[1:] if (words := line.split())}


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
