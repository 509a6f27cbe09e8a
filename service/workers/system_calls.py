"""A filter of system calls (seccomp) for a worker: no network, no program, no other process.

Listed calls fail with `EPERM`; all others work. It is a list of forbidden calls, because other
libraries and processors use other calls, and a good X-ray must not fail on an unforeseen call.
Numbers: `unistd_64.h` of x86 and the generic `unistd.h`, which 64-bit ARM uses.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import struct
from collections.abc import Iterator, Sequence

# linux/seccomp.h, linux/filter.h, linux/audit.h, linux/sched.h
_SET_SECCOMP, _MODE_FILTER = 22, 2
_ALLOW, _ERRNO, _KILL_PROCESS = 0x7FFF0000, 0x00050000, 0x80000000
_LOAD, _JUMP_EQUAL, _JUMP_ANY_BIT, _JUMP_AT_LEAST, _RETURN = 0x20, 0x15, 0x45, 0x35, 0x06
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16
_CLONE_THREAD = 0x00010000
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_COLUMN = {"x86_64": 0, "aarch64": 1}
_NONE = -1

# name: number on x86-64, number on 64-bit ARM
_FORBIDDEN = {
    "socket": (41, 198), "connect": (42, 203), "accept": (43, 202), "bind": (49, 200),
    "listen": (50, 201), "accept4": (288, 242), "socketpair": (53, 199),
    "fork": (57, _NONE), "vfork": (58, _NONE), "execve": (59, 221), "execveat": (322, 281),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "kcmp": (312, 272), "pidfd_open": (434, 434), "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424), "rt_sigqueueinfo": (129, 138), "tkill": (200, 130),
    "rt_tgsigqueueinfo": (297, 240), "process_madvise": (440, 440),
    "process_mrelease": (448, 448), "migrate_pages": (256, 238), "move_pages": (279, 239),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39),
    "pivot_root": (155, 41), "chroot": (161, 51), "fsopen": (430, 430), "fsmount": (432, 432),
    "open_tree": (428, 428), "move_mount": (429, 429), "mount_setattr": (442, 442),
    "open_by_handle_at": (304, 265), "init_module": (175, 105), "finit_module": (313, 273),
    "delete_module": (176, 106), "kexec_load": (246, 104), "reboot": (169, 142),
    "swapon": (167, 224), "swapoff": (168, 225), "iopl": (172, _NONE), "ioperm": (173, _NONE),
    "setuid": (105, 146), "setgid": (106, 144), "setreuid": (113, 145), "setregid": (114, 143),
    "setresuid": (117, 147), "setresgid": (119, 149), "setgroups": (116, 159),
    "capset": (126, 91), "personality": (135, 92),
    "creat": (85, _NONE), "truncate": (76, 45), "unlink": (87, _NONE), "unlinkat": (263, 35),
    "rename": (82, _NONE), "renameat": (264, 38), "renameat2": (316, 276),
    "mkdir": (83, _NONE), "mkdirat": (258, 34), "rmdir": (84, _NONE), "mknod": (133, _NONE),
    "mknodat": (259, 33), "link": (86, _NONE), "linkat": (265, 37), "symlink": (88, _NONE),
    "symlinkat": (266, 36), "chmod": (90, _NONE), "fchmodat": (268, 53), "chown": (92, _NONE),
    "lchown": (94, _NONE), "fchownat": (260, 54), "setxattr": (188, 5), "lsetxattr": (189, 6),
    "shmget": (29, 194), "msgget": (68, 186), "semget": (64, 190), "mq_open": (240, 180),
}  # fmt: skip
_OPEN = (((2, _NONE), 1), ((257, 56), 2))  # open and openat, with the argument that holds the flags
_ABSENT = ((435, 435), (437, 437))  # clone3 and openat2: the C library then uses the older ones
_CLONE, _KILL, _TGKILL = (56, 220), (62, 129), (234, 131)
_SETRLIMIT, _PRLIMIT = (160, 164), (302, 261)


def forbid_system_calls() -> None:
    """Set the filter for this process irrevocably; it needs `no_new_privs`.

    Raises:
        NotImplementedError: this processor's numbers are not known.
        OSError: the kernel refuses.
    """
    program = b"".join(_program(platform.machine(), os.getpid()))
    buffer = ctypes.create_string_buffer(program, len(program))

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]

    described = Program(len(program) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_SET_SECCOMP, _MODE_FILTER, ctypes.byref(described), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "the system call filter was refused")


def _program(machine: str, process: int) -> Iterator[bytes]:
    """Yield the filter's instructions for one processor and one process."""
    if machine not in _ARCHITECTURES:
        raise NotImplementedError(f"no system call numbers for {machine}")
    column = _COLUMN[machine]
    refuse, absent = _ERRNO | errno.EPERM, _ERRNO | errno.ENOSYS
    yield _instruction(_LOAD, _ARCHITECTURE_AT)
    yield _instruction(_JUMP_EQUAL, _ARCHITECTURES[machine], 1, 0)
    yield _instruction(_RETURN, _KILL_PROCESS)
    yield _instruction(_LOAD, _NUMBER_AT)
    if machine == "x86_64":
        yield from _guarded(_JUMP_AT_LEAST, 0x40000000, [_instruction(_RETURN, refuse)])  # x32
    for numbers in _FORBIDDEN.values():
        yield from _for_call(numbers[column], [_instruction(_RETURN, refuse)])
    for numbers in _ABSENT:
        yield from _for_call(numbers[column], [_instruction(_RETURN, absent)])
    for numbers, flags in _OPEN:
        yield from _for_call(numbers[column], _unless_writing(flags))
    yield from _for_call(_CLONE[column], _if_bit(0, _CLONE_THREAD))
    for numbers in (_KILL, _TGKILL):
        yield from _for_call(numbers[column], _if_equal(0, process))
    yield from _for_call(_SETRLIMIT[column], _if_equal(0, resource.RLIMIT_CPU))
    yield from _for_call(_PRLIMIT[column], _own_limits_only())
    yield _instruction(_RETURN, _ALLOW)


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("<HBBI", code, if_true, if_false, value)


def _guarded(jump: int, value: int, body: Sequence[bytes]) -> Iterator[bytes]:
    """Run instructions that end the filter only if the loaded value compares as given."""
    yield _instruction(jump, value, 0, len(body))
    yield from body


def _for_call(number: int, body: Sequence[bytes]) -> Iterator[bytes]:
    if number != _NONE:
        yield from _guarded(_JUMP_EQUAL, number, body)


def _argument(index: int) -> bytes:
    return _instruction(_LOAD, _ARGUMENTS_AT + 8 * index)  # its lower 32 bits


def _unless_writing(index: int) -> list[bytes]:
    return [_argument(index), *_verdict(_JUMP_ANY_BIT, _WRITING, allow_if=False)]


def _if_bit(index: int, bit: int) -> list[bytes]:
    return [_argument(index), *_verdict(_JUMP_ANY_BIT, bit, allow_if=True)]


def _if_equal(index: int, value: int) -> list[bytes]:
    return [_argument(index), *_verdict(_JUMP_EQUAL, value, allow_if=True)]


def _own_limits_only() -> list[bytes]:
    """Allow `prlimit64` to read this process's limits, and to set only that of CPU time."""
    sets_nothing = [_argument(2), *_verdict(_JUMP_EQUAL, 0, allow_if=True)]
    return [
        _argument(0),
        _instruction(_JUMP_EQUAL, 0, 1, 0),
        _instruction(_RETURN, _ERRNO | errno.EPERM),
        _argument(1),
        _instruction(_JUMP_EQUAL, resource.RLIMIT_CPU, 0, 1),
        _instruction(_RETURN, _ALLOW),
        *sets_nothing,
    ]


def _verdict(jump: int, value: int, allow_if: bool) -> list[bytes]:
    allow, refuse = _ALLOW, _ERRNO | errno.EPERM
    first, second = (allow, refuse) if allow_if else (refuse, allow)
    return [
        _instruction(jump, value, 0, 1),
        _instruction(_RETURN, first),
        _instruction(_RETURN, second),
    ]
