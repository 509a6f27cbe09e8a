"""Tasks that behave well and tasks that do not, for tests of the worker pool."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import gc
import os
import re
import resource
import signal
import socket
import stat
import time
import weakref
from collections.abc import Callable
from pathlib import Path

from service.heap import keep_one_heap
from service.workers.framing import MAGIC, Frame, Kind, encode
from service.workers.task import Answer, Refusal, Task


def echo(task: Task) -> Answer:
    """Give everything back, the shared memory byte by byte reversed."""
    blobs = [bytes(task.map(index))[::-1] for index in range(len(task.blobs))]
    return Answer(task.fields, task.body, blobs)


def look(task: Task) -> Answer:
    """Map what came and say how large it is."""
    return Answer({"bytes": [len(task.map(index)) for index in range(len(task.blobs))]})


def fill(task: Task) -> Answer:
    """Give back shared memory of the size asked for."""
    return Answer(blobs=[bytes(task.fields["size_bytes"])])


def whoami(task: Task) -> Answer:
    return Answer({"process": os.getpid(), "parent": os.getppid()})


def wait(task: Task) -> Answer:
    time.sleep(task.fields["seconds"])
    return whoami(task)


def burn(task: Task) -> Answer:
    """Use processor time in Python, which needs no signal handler to be ended."""
    while True:
        pass


def burn_native(task: Task) -> Answer:
    """A regular expression that backtracks for ages in one call, the lock held."""
    re.match(r"(a+)+$", "a" * 60 + "b")
    return Answer()


def burn_for(task: Task) -> Answer:
    until_s = time.process_time() + task.fields["seconds"]
    while time.process_time() < until_s:
        pass
    return whoami(task)


def need(task: Task) -> Answer:
    """State a need, then use processor time."""
    task.needs_cpu(task.fields["needs_s"])
    return burn_for(task)


def take_memory(task: Task) -> Answer:
    held = []
    while True:
        held.append(bytearray(16 << 20))


def take_shared_memory(task: Task) -> Answer:
    descriptor = os.memfd_create("large")
    os.ftruncate(descriptor, task.fields["size_bytes"])
    return Answer()


def segfault(task: Task) -> Answer:
    ctypes.string_at(8)
    return Answer()


def abort(task: Task) -> Answer:
    os.abort()


def bus_error(task: Task) -> Answer:
    os.kill(os.getpid(), signal.SIGBUS)
    return Answer()


def leave(task: Task) -> Answer:
    os._exit(0)


def refuse(task: Task) -> Answer:
    raise Refusal({"code": "undecodable_image"})


def fail(task: Task) -> Answer:
    raise KeyError("Doe^Jane")


_kept: weakref.ref[object] | None = None


class _Secret:
    def __init__(self) -> None:
        self.me = self  # a cycle, which only the collector frees


def keep(task: Task) -> Answer:
    """Leave a cycle behind and look whether that of the task before is still there."""
    global _kept
    is_there = _kept is not None and _kept() is not None
    _kept = weakref.ref(_Secret())
    return Answer({"is_there": is_there, "open_files": len(_open_files())})


_top: bytes | None = None


def leave_free_memory(task: Task) -> Answer:
    """Free 40 MB below a block that stays, as a decoder's tables do."""
    global _top
    keep_one_heap()
    pieces = [bytes(1000) for _ in range(40_000)]
    _top = bytes(1000)
    del pieces
    return Answer({"process": os.getpid()})


def last(task: Task) -> Answer:
    return Answer({"process": os.getpid()}, is_last=True)


def describe_limits(task: Task) -> Answer:
    """What this process can say about itself; it cannot read `/proc`."""
    return Answer(
        {
            "process": os.getpid(),
            "address_space": resource.getrlimit(resource.RLIMIT_AS)[0],
            "core": resource.getrlimit(resource.RLIMIT_CORE)[0],
            "open_files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            "file_size": resource.getrlimit(resource.RLIMIT_FSIZE)[0],
            "niceness": os.getpriority(os.PRIO_PROCESS, 0),
            "ignored": signal.getsignal(signal.SIGTERM) is signal.SIG_IGN,
        }
    )


def attempt(task: Task) -> Answer:
    """Try what a worker must not do; the error's number, 0 when it worked."""
    attempts: dict[str, Callable[[], object]] = {
        "socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM),
        "unix_socket": lambda: socket.socket(socket.AF_UNIX),
        "fork": os.fork,
        "exec": lambda: os.execv("/bin/true", ["true"]),
        "kill_parent": lambda: os.kill(os.getppid(), 0),
        "read_passwords": lambda: Path("/etc/passwd").read_text(),
        "read_parent": lambda: Path(f"/proc/{task.fields['front']}/environ").read_bytes(),
        "read_self": lambda: Path("/proc/self/environ").read_bytes(),
        "write_file": lambda: Path("/tmp/written").write_text(""),
        "delete_file": lambda: os.unlink(task.fields["file"]),
        "raise_limit": lambda: resource.setrlimit(resource.RLIMIT_AS, (-1, -1)),
    }
    found = {}
    for name, work in attempts.items():
        try:
            work()
            found[name] = 0
        except (OSError, ValueError) as error:
            found[name] = getattr(error, "errno", None) or -1
    return Answer(found)


def import_late(task: Task) -> Answer:
    import colorsys  # a module of the standard library that nothing here has imported

    return Answer({"grey": colorsys.rgb_to_hls(0.5, 0.5, 0.5)[1]})


def _own_socket() -> socket.socket:
    """The worker's socket to the front, as code that was taken over would find it."""
    found = next(each for each in _open_files() if stat.S_ISSOCK(os.fstat(each).st_mode))
    return socket.socket(fileno=os.dup(found))


def _open_files() -> list[int]:
    found = []
    for each in range(64):
        with contextlib.suppress(OSError):
            os.fstat(each)
            found.append(each)
    return found


def send_raw(task: Task) -> Answer:
    """Send bytes of the caller's choice instead of an answer."""
    _own_socket().sendall(task.body)
    time.sleep(60)
    return Answer()


def flood(task: Task) -> Answer:
    connection = _own_socket()
    while True:
        connection.sendall(encode(Frame(Kind.READY, {"refused_limits": []})))


def _done(sizes: list[int], descriptors: tuple[int, ...]) -> None:
    fields = {"fields": {}, "blob_bytes": sizes, "is_last": False, "cpu_used_s": 0.0, "wall_s": 0.0}
    data = encode(Frame(Kind.DONE, fields, descriptors=descriptors))
    socket.send_fds(_own_socket(), [data], list(descriptors))
    time.sleep(60)


def send_unsealed(task: Task) -> Answer:
    descriptor = os.memfd_create("unsealed", os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, 4096)
    _done([4096], (descriptor,))
    return Answer()


def send_shrunken(task: Task) -> Answer:
    """Say more bytes than the sealed memory holds."""
    descriptor = os.memfd_create("shrunken", os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, 16)
    seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    _done([1 << 20], (descriptor,))
    return Answer()


def send_pipe(task: Task) -> Answer:
    _done([0], (os.pipe()[0],))
    return Answer()


def send_many_descriptors(task: Task) -> Answer:
    header = MAGIC + bytes(10)
    socket.send_fds(_own_socket(), [header], [0] * 60)
    time.sleep(60)
    return Answer()


def warm_up() -> None:
    gc.collect()


TASKS = {
    each.__name__: each
    for each in (
        echo, look, fill, whoami, wait, burn, burn_native, burn_for, need, take_memory,
        take_shared_memory, segfault, abort, bus_error, leave, refuse, fail, keep, last,
        leave_free_memory, describe_limits, attempt, import_late, send_raw, flood, send_unsealed,
        send_shrunken, send_pipe, send_many_descriptors,
    )
}  # fmt: skip
