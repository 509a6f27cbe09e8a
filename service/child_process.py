"""A child process that ends with this one, whichever thread starts it and however this one ends.

Both kinds of child start this way: the template of the image workers, and the compute process. The
kernel sends `SIGKILL` to a child whose parent ends (`PR_SET_PDEATHSIG`), and counts the *thread*
that started the child as the parent. One thread therefore starts all children and lives as long as
the process. The child first sets the signal. Then it checks that its parent is still the process
that started it, because a parent that had already ended would not trigger the signal.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TypeVar

Result = TypeVar("Result")

SIGNALS_OF_THE_PARENT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals meant for the parent, which drains first; terminals and systemd send them to every
process."""

_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of linux/prctl.h
_PARENT_VARIABLE = "LUNGSEG_PARENT_PROCESS"


class ParentGoneError(Exception):
    """The process that started this one has ended already."""


def start_child(
    module: str, arguments: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """Start `python -m module FD ARGUMENTS...` with one end of a socket pair.

    Args:
        module: module whose `main` calls `die_with_parent` before anything else.
        arguments: arguments after the number of the child's descriptor.
        environment: variables beside those of this process.

    Returns:
        Our end, and the process.

    Raises:
        OSError: no process or no descriptor is available.
    """
    ours, theirs = socket.socketpair()
    variables = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        **(environment or {}),
        _PARENT_VARIABLE: str(os.getpid()),
    }
    command = [sys.executable, "-m", module, str(theirs.fileno()), *arguments]
    try:
        process = _in_starter_thread(
            lambda: subprocess.Popen(
                command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, env=variables
            )
        )
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return ours, process


def die_with_parent(parent: int | None = None) -> None:
    """Make the kernel kill the calling process when its parent ends; call it before anything else.

    On systems other than Linux it does nothing; the child ends when its socket closes.

    Args:
        parent: process id of the parent; by default the one that `start_child` passed.

    Raises:
        ParentGoneError: it has ended already.
        OSError: the kernel refuses.
    """
    expected = int(os.environ[_PARENT_VARIABLE]) if parent is None else parent
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "PR_SET_PDEATHSIG was refused")
    if os.getppid() != expected:
        raise ParentGoneError(f"process {expected} has ended")


def leave_signals_to_parent() -> None:
    """Ignore the signals that ask a service to stop; children inherit it."""
    for ignored in SIGNALS_OF_THE_PARENT:
        signal.signal(ignored, signal.SIG_IGN)


class _StarterThread:
    """Starts processes; never ends by itself."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self._wanted: SimpleQueue[tuple[Callable[[], object], Future[object]]] = SimpleQueue()
        threading.Thread(target=self._run, name="child-starter", daemon=True).start()

    def ask(self, work: Callable[[], object]) -> Future[object]:
        result: Future[object] = Future()
        self._wanted.put((work, result))
        return result

    def _run(self) -> None:
        while True:
            work, result = self._wanted.get()
            try:
                result.set_result(work())
            except BaseException as error:  # belongs to the requesting thread
                result.set_exception(error)
            del work, result


_lock = threading.Lock()
_starter: _StarterThread | None = None


def _in_starter_thread(work: Callable[[], Result]) -> Result:
    global _starter
    with _lock:
        if _starter is None or _starter.owner != os.getpid():
            _starter = _StarterThread()
        pending = _starter.ask(work)
    result: Result = pending.result()  # type: ignore[assignment]
    return result
