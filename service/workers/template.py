"""The template: one warmed process without threads that forks workers on request.

The pool starts it by `python -m service.workers.template FD`. It imports the workers' modules once;
workers then share its memory and start within milliseconds. It imports the extras, which few tasks
need, when the front requests them. It never reads an untrusted byte. It reaps the workers and
reports to the front how each ended.
"""

from __future__ import annotations

import gc
import importlib
import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from service.child_process import ParentGoneError, die_with_parent, leave_signals_to_parent
from service.heap import give_back_free_memory
from service.line_writer import never_wait_for_readers
from service.workers.file_access import FileAccess
from service.workers.framing import Frame, FrameReader, Kind, receive, refuse_rest, send
from service.workers.limits import WorkerLimits, address_space_bytes
from service.workers.task import Function
from service.workers.worker import WorkerJob, described, run_forked_worker


class TemplateError(Exception):
    """The template cannot fork workers."""


def main(arguments: Sequence[str]) -> int:
    """Run the template.

    Args:
        arguments: number of the control socket's descriptor.

    Returns:
        The exit code: 0 when the front has gone.
    """
    try:
        die_with_parent()
    except ParentGoneError:
        return 0
    leave_signals_to_parent()
    never_wait_for_readers()
    control = socket.socket(fileno=int(arguments[0]))
    reader = FrameReader()
    try:
        config = receive(control, reader)
        refuse_rest(config, [Kind.CONFIG])
        module_name = config.fields["tasks"]
        tasks = _warmed(module_name)
        limits = WorkerLimits.from_fields(config.fields["limits"])
        send(control, Frame(Kind.WARM, _facts(has_extras=False)))
        job = WorkerJob(tasks, limits, _file_access(), has_extras=False)
        _Forker(control, reader, job, partial(_warm_extras, module_name)).run()
    except (EOFError, ConnectionError):  # the workers end with this process
        return 0


def _warmed(module_name: str) -> Mapping[str, Function]:
    """Import the tasks, warm them up, and make the loaded memory shared."""
    module = importlib.import_module(module_name)
    tasks: Mapping[str, Function] = module.TASKS
    warm_up = getattr(module, "warm_up", None)
    if warm_up is not None:
        warm_up()
    _share_what_is_there(module_name)
    return tasks


def _warm_extras(module_name: str) -> dict[str, Any]:
    """Load the extras; return the error, if any."""
    warm_up_extras = getattr(sys.modules[module_name], "warm_up_extras", None)
    failure: dict[str, Any] = {}
    try:
        if warm_up_extras is not None:
            warm_up_extras()
    except Exception as error:  # the border: other tasks work without the extras
        failure = described(error)
    _share_what_is_there(module_name)
    return failure


def _share_what_is_there(module_name: str) -> None:
    """Keep the loaded memory shared with the workers.

    Raises:
        TemplateError: a thread was left behind.
    """
    threads = len(list(Path("/proc/self/task").iterdir()))
    if threads != 1:
        raise TemplateError(f"{module_name} started {threads - 1} threads; a fork would lose them")
    gc.collect()
    give_back_free_memory()  # else each worker would copy what warming up left before it uses it
    gc.freeze()  # collections in a worker then leave the shared pages alone


def _file_access() -> FileAccess | None:
    try:
        return FileAccess()
    except OSError:  # each worker reports it as a refused limit
        return None


def _facts(has_extras: bool) -> dict[str, Any]:
    return {
        "address_space_bytes": address_space_bytes(),
        "has_torch": "torch" in sys.modules,
        "has_extras": has_extras,
    }


class _Forker:
    """Forks, kills and reaps workers on request of the front."""

    def __init__(
        self,
        control: socket.socket,
        reader: FrameReader,
        job: WorkerJob,
        warm_extras: Callable[[], dict[str, Any]],
    ) -> None:
        self._control = control
        self._reader = reader
        self._job = job
        self._warm_extras = warm_extras
        self._number_of: dict[int, int] = {}  # process id: the front's number
        self._wake_reader, self._wake_writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def run(self) -> NoReturn:
        """Serve until the front is gone.

        Raises:
            EOFError: the front is gone.
        """
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake_writer, warn_on_full_buffer=False)
        while True:
            self._reap()
            frame = self._reader.next_frame()
            if frame is not None:
                self._obey(frame)
                continue
            ready, _, _ = select.select([self._control.fileno(), self._wake_reader], [], [])
            if self._wake_reader in ready:
                os.read(self._wake_reader, 4096)
            if self._control.fileno() in ready and not self._reader.fill(self._control):
                raise EOFError

    def _obey(self, frame: Frame) -> None:
        refuse_rest(frame, [Kind.FORK, Kind.KILL, Kind.WARM_EXTRAS])
        if frame.kind is Kind.WARM_EXTRAS:
            self._load_extras()
            return
        number = frame.fields["worker"]
        if frame.kind is Kind.KILL:
            for process, its_number in self._number_of.items():
                if its_number == number:
                    os.kill(process, signal.SIGKILL)  # not reaped: the id is still its own
            return
        try:
            self._fork(number, frame)
        finally:
            frame.close()

    def _load_extras(self) -> None:
        failure = self._warm_extras()
        if not failure:
            if self._job.access is not None:
                self._job.access.close()
            self._job = replace(self._job, access=_file_access(), has_extras=True)
        facts = _facts(self._job.has_extras)
        send(self._control, Frame(Kind.WARM, {**facts, "extras_failure": failure}))

    def _fork(self, number: int, frame: Frame) -> None:
        template = os.getpid()
        try:
            process = os.fork()
        except OSError:
            send(self._control, Frame(Kind.ENDED, {"worker": number, "status": None}))
            return
        if process == 0:
            try:
                _leave_template()
                theirs = socket.socket(fileno=frame.descriptors[0])
                run_forked_worker(theirs, self._job, template)
            finally:
                os._exit(1)  # a worker must never continue as a second template
        self._number_of[process] = number
        send(self._control, Frame(Kind.FORKED, {"worker": number, "process": process}))

    def _reap(self) -> None:
        while self._number_of:
            process, status, usage = os.wait4(-1, os.WNOHANG)
            if process == 0:
                return
            number = self._number_of.pop(process)
            fields = {
                "worker": number,
                "status": os.waitstatus_to_exitcode(status),
                "cpu_s": usage.ru_utime + usage.ru_stime,
                "peak_bytes": usage.ru_maxrss * 1024,
            }
            send(self._control, Frame(Kind.ENDED, fields))


def _leave_template() -> None:
    """Undo the template's settings in a worker."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
