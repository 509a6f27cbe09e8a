"""Remove a worker's access to what no picture needs: other processes, the network, files.

This limits the damage if a hostile file takes control of native code. Three measures need no
privilege, and each reports a refusal by the kernel: `no_new_privs`, a system call filter (seccomp),
and Landlock, which allows only reading of Python's own folders.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

from service.workers.file_access import FileAccess
from service.workers.system_calls import forbid_system_calls

_SET_NO_NEW_PRIVS = 38  # linux/prctl.h


def confine(access: FileAccess | None) -> list[str]:
    """Confine this process and its later threads irrevocably.

    Args:
        access: folders that it may read; None if the kernel has no Landlock.

    Returns:
        Names of the refused measures: `no_new_privs`, `landlock`, `seccomp`.
    """
    steps: dict[str, Callable[[], None]] = {"no_new_privs": never_gain_privileges}
    if access is not None:
        steps["landlock"] = access.restrict_this_process
    steps["seccomp"] = forbid_system_calls  # last, because it forbids calls that the others need
    refused = [] if access is not None else ["landlock"]
    for name, step in steps.items():
        try:
            step()
        except (OSError, NotImplementedError):
            refused.append(name)
    return refused


def never_gain_privileges() -> None:
    """Set `no_new_privs`, which the kernel requires for a filter by an ordinary user.

    Raises:
        OSError: the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "no_new_privs was refused")
