"""Limits of processors and memory, by control groups of both versions, own and above."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.container_limits import ContainerLimits, memory_kills, read_limits

GIB = 2**30


def machine(folder: Path, membership: str, files: dict[str, str]) -> tuple[Path, Path]:
    """Makes `/sys/fs/cgroup` and `/proc/self/cgroup`."""
    for name, text in files.items():
        (folder / "cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "cgroup" / name).write_text(text)
    (folder / "self").write_text(membership)
    return folder / "cgroup", folder / "self"


@pytest.mark.parametrize(
    ("membership", "files", "limits"),
    [
        ("0::/\n", {}, ContainerLimits()),
        (  # a container of version 2
            "0::/\n",
            {"cpu.max": "150000 100000\n", "memory.max": f"{GIB}\n"},
            ContainerLimits(1.5, GIB),
        ),
        ("0::/\n", {"cpu.max": "max 100000\n", "memory.max": "max\n"}, ContainerLimits()),
        ("0::/\n", {"cpu.max": "garbage", "memory.max": "\x00"}, ContainerLimits()),
        ("0::/\n", {"cpu.max": "50000 0"}, ContainerLimits()),
        (  # a systemd unit: its own group, and one above that is tighter
            "0::/system.slice/lungseg.service\n",
            {
                "system.slice/memory.max": f"{GIB}\n",
                "system.slice/cpu.max": "max 100000\n",
                "system.slice/lungseg.service/cpu.max": "400000 100000\n",
                "system.slice/lungseg.service/memory.max": f"{2 * GIB}\n",
            },
            ContainerLimits(4.0, GIB),
        ),
        (  # a container of version 1, whose path only the host has
            "4:memory:/docker/0123\n3:cpu,cpuacct:/docker/0123\n0::/\n",
            {
                "cpu,cpuacct/cpu.cfs_quota_us": "200000\n",
                "cpu,cpuacct/cpu.cfs_period_us": "100000\n",
                "memory/memory.limit_in_bytes": f"{GIB}\n",
            },
            ContainerLimits(2.0, GIB),
        ),
        (  # version 1 without limits
            "4:memory:/\n1:cpu:/\n",
            {
                "cpu/cpu.cfs_quota_us": "-1\n",
                "cpu/cpu.cfs_period_us": "100000\n",
                "memory/memory.limit_in_bytes": "9223372036854771712\n",
            },
            ContainerLimits(),
        ),
    ],
)
def test_the_tightest_limit_counts(
    membership: str, files: dict[str, str], limits: ContainerLimits, tmp_path: Path
) -> None:
    assert read_limits(*machine(tmp_path, membership, files)) == limits


def test_a_machine_without_control_groups_has_no_limits(tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    assert read_limits(absent, absent) == ContainerLimits()
    assert memory_kills(absent, absent) == 0


@pytest.mark.parametrize(
    ("membership", "files"),
    [
        ("0::/\n", {"memory.events": "low 0\noom 9\noom_kill 3\n"}),
        ("4:memory:/d\n", {"memory/memory.oom_control": "under_oom 0\noom_kill 3\n"}),
        (  # those above count other containers'
            "0::/a/b\n",
            {"memory.events": "oom_kill 70\n", "a/b/memory.events": "oom_kill 3\n"},
        ),
    ],
)
def test_kills_are_those_of_the_own_group(
    membership: str, files: dict[str, str], tmp_path: Path
) -> None:
    assert memory_kills(*machine(tmp_path, membership, files)) == 3
