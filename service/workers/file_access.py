"""Landlock for a worker: it can read Python's own folders and open nothing else.

A warm worker needs no file, but libraries import some of their parts late. So the folders of
imported packages stay readable. Keys, certificates, models, other processes' `/proc` and everything
writable are not accessible. With a recent kernel Landlock also forbids TCP and signals. Linux 5.13
and newer; interface: the kernel's `userspace-api/landlock`.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import struct
import sys
import sysconfig
from pathlib import Path

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every processor
_ASK_VERSION, _PATH_BENEATH = 1, 1
_READ_FILE, _READ_FOLDER = 1 << 2, 1 << 3
_FILE_RIGHTS_OF_VERSION = {1: 13, 2: 14, 3: 15, 4: 15}  # later ones: 16 bits
_LATEST_FILE_RIGHTS = 16
_TCP, _SCOPES = 0b11, 0b11  # bind and connect; abstract sockets and signals
_SYSTEM_PATHS = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache",
                 "/etc/localtime", "/usr/share/zoneinfo", "/dev/null", "/dev/urandom")  # fmt: skip


class FileAccess:
    """A set of readable folders, made once by the template and applied by each worker."""

    def __init__(self) -> None:
        """Prepare it from the packages that this process has imported.

        Raises:
            OSError: the kernel has no Landlock.
        """
        self._libc = ctypes.CDLL(None, use_errno=True)
        version = _called(self._libc, _CREATE_RULESET, None, ctypes.c_size_t(0), _ASK_VERSION)
        rights = (1 << _FILE_RIGHTS_OF_VERSION.get(version, _LATEST_FILE_RIGHTS)) - 1
        rules = struct.pack("<Q", rights)
        if version >= 4:
            rules += struct.pack("<Q", _TCP)
        if version >= 6:
            rules += struct.pack("<Q", _SCOPES)
        size = ctypes.c_size_t(len(rules))
        self._ruleset = _called(self._libc, _CREATE_RULESET, rules, size, 0)
        for path in readable_paths():
            with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
                _allow(self._libc, self._ruleset, path)

    def close(self) -> None:
        """Close its descriptor; restricted processes stay restricted."""
        os.close(self._ruleset)

    def restrict_this_process(self) -> None:
        """Restrict this process to it irrevocably; that needs `no_new_privs`.

        Raises:
            OSError: the kernel refuses.
        """
        _called(self._libc, _RESTRICT_SELF, self._ruleset, 0)


def readable_paths() -> list[str]:
    """Return the readable paths: system libraries, Python's, and every imported package."""
    places = sysconfig.get_paths()
    python = [places[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    return sorted({*_SYSTEM_PATHS, *python, *_imported_packages()})


def _imported_packages() -> set[str]:
    found = set()
    for name in {name.partition(".")[0] for name in list(sys.modules)}:
        module = sys.modules.get(name)
        for folder in getattr(module, "__path__", None) or []:
            found.add(str(folder))
        file = getattr(module, "__file__", None)
        if file and not getattr(module, "__path__", None):
            found.add(str(file))
    return found


def _allow(libc: ctypes.CDLL, ruleset: int, path: str) -> None:
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rights = _READ_FILE | (_READ_FOLDER if Path(path).is_dir() else 0)
        rule = struct.pack("<Qi", rights, place)
        _called(libc, _ADD_RULE, ruleset, _PATH_BENEATH, rule, 0)
    finally:
        os.close(place)


def _called(libc: ctypes.CDLL, *arguments: object) -> int:
    found = int(libc.syscall(*arguments))
    if found < 0:
        number = ctypes.get_errno() or errno.ENOSYS
        raise OSError(number, os.strerror(number))
    return found
