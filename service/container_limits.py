"""Limits of the container or the systemd unit on processors and memory.

Control groups of version 2 (`cpu.max`, `memory.max`) and of version 1 (`cpu.cfs_quota_us`,
`memory.limit_in_bytes`; RHEL 8 and older hosts). The limit may be at this process's own group or at
any above it. In a container the group's own folder is often mounted as the root, and
`/proc/self/cgroup` names a path that only the host has; missing paths are skipped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
_UNLIMITED_BYTES = 2**60
"""Version 1 writes a number near 2^63 for no limit."""


@dataclass(frozen=True)
class ContainerLimits:
    """The limits; None for no limit."""

    cpus: float | None = None  # such as 1.5
    memory_bytes: int | None = None


def read_limits(root: Path = CGROUPS, membership: Path = MEMBERSHIP) -> ContainerLimits:
    """Return the limits now, the tightest of all groups above this process.

    Args:
        root: mount point of control groups.
        membership: file that names the groups of this process.
    """
    cpus = [*_unified_cpus(root, membership), *_first_version_cpus(root, membership)]
    sizes = [
        size
        for folder, name in _files(root, membership, "memory", "memory.max", _MEMORY_V1)
        if (size := _number(folder / name)) is not None and size < _UNLIMITED_BYTES
    ]
    return ContainerLimits(min(cpus, default=None), min(sizes, default=None))


def memory_kills(root: Path = CGROUPS, membership: Path = MEMBERSHIP) -> int:
    """Return how many processes of this container the kernel killed for lack of memory."""
    files = _files(root, membership, "memory", "memory.events", "memory.oom_control")
    # The group's own count: groups above also count other containers.
    own = [path for folder, name in files if (path := folder / name).is_file()][-1:]
    for line in _lines(own[0]) if own else []:
        word, _, count = line.partition(" ")
        if word == "oom_kill" and count.isdecimal():
            return int(count)
    return 0


_MEMORY_V1 = "memory.limit_in_bytes"


def _unified_cpus(root: Path, membership: Path) -> Iterator[float]:
    for folder in _groups(root, _path_of("", membership)):
        for line in _lines(folder / "cpu.max"):
            quota, _, period = line.partition(" ")
            if quota.isdecimal() and period.isdecimal() and int(period) > 0:
                yield int(quota) / int(period)


def _first_version_cpus(root: Path, membership: Path) -> Iterator[float]:
    for mount in ("cpu", "cpu,cpuacct"):
        for folder in _groups(root / mount, _path_of("cpu", membership)):
            quota = _number(folder / "cpu.cfs_quota_us")
            period = _number(folder / "cpu.cfs_period_us")
            if quota is not None and period:
                yield quota / period


def _files(
    root: Path, membership: Path, controller: str, unified: str, first_version: str
) -> Iterator[tuple[Path, str]]:
    """Yield the folders of a controller and the name of its file in them, for both versions."""
    for folder in _groups(root, _path_of("", membership)):
        yield folder, unified
    for folder in _groups(root / controller, _path_of(controller, membership)):
        yield folder, first_version


def _path_of(controller: str, membership: Path) -> str:
    """Return this process's path below a controller; the controller is empty for version 2."""
    for line in _lines(membership):
        _, names, path = [*line.split(":", 2), "", ""][:3]
        if controller in names.split(","):
            return path
    return "/"


def _groups(mount: Path, path: str) -> Sequence[Path]:
    """Return the existing folders of a group and of all groups above it."""
    parts = [part for part in path.split("/") if part not in ("", "..")]
    folders = [mount.joinpath(*parts[:count]) for count in range(len(parts) + 1)]
    return [folder for folder in folders if folder.is_dir()]


def _number(path: Path) -> int | None:
    """Return the positive number in a file; None for `max`, -1 or no file."""
    lines = _lines(path)
    return int(lines[0]) if lines and lines[0].isdecimal() and int(lines[0]) > 0 else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return []
