"""The thread that writes an audit log: lines at once, fsync once a second, new files by size.

A full disk or a missing folder delays no answer: lines wait in memory until they can be written. A
request is refused for an unwritable line only with `--audit-required`.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from service.audit.chain import (
    BEGUN,
    CONTINUED,
    AuditError,
    ChainState,
    sealed_line,
    state_at_end,
    torn_fields,
)

logger = logging.getLogger("service.audit")

SYNC_INTERVAL_S = 1.0
HEAD_INTERVAL_S = 3600.0
MOST_WAITING = 10_000
"""Most lines kept in memory while they cannot be written; about 10 MB."""


@dataclass(frozen=True)
class AuditWatch:
    """Callbacks about the state of the log, called in its thread.

    Attributes:
        on_written: called with the number of lines written.
        on_lost: called with the number of lines given up.
        on_failing: called with whether writing fails now.
        on_head: called with the chain's head, to publish it.
    """

    on_written: Callable[[int], None] = lambda count: None
    on_lost: Callable[[int], None] = lambda count: None
    on_failing: Callable[[bool], None] = lambda is_failing: None
    on_head: Callable[[ChainState], None] = lambda state: None


@dataclass(eq=False)
class _Waiting:
    """A line that is not written yet."""

    fields: Mapping[str, Any]
    written: Future[None] = field(default_factory=Future)


class AuditLog:
    """An audit log with this process as its only writer."""

    def __init__(
        self,
        path: Path,
        key: bytes,
        *,
        max_bytes: int,
        keeps_waiting: bool = True,
        watch: AuditWatch | None = None,
    ) -> None:
        """Open the log and continue its chain.

        Args:
            path: the file; older files are beside it, named by the number of their first entry.
            key: the secret of the seals.
            max_bytes: size at which a new file begins.
            keeps_waiting: whether unwritable lines wait; otherwise they fail.
            watch: gets changes of the log's state.

        Raises:
            AuditError: the file cannot be written, another process writes it, or it was written
                with another key.
        """
        self._path, self._key, self._max_bytes = path, key, max_bytes
        self._keeps_waiting = keeps_waiting
        self._watch = watch or AuditWatch()
        self._waiting: deque[_Waiting] = deque()
        self._lost = 0
        self._changed = threading.Condition()
        self._is_closing = False
        self._is_failing = False
        self._synced_at = self._head_at = time.monotonic()
        self._is_dirty = False
        self._state = ChainState()
        self._descriptor = -1
        self._half_line_at: int | None = None
        try:
            self._open()
        except OSError as error:
            reason = (error.strerror or type(error).__name__).lower()
            raise AuditError(f"The audit log {path} cannot be written: {reason}.") from None
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
        self._publish_head()
        self._thread.start()

    @property
    def state(self) -> ChainState:
        """The state of the chain."""
        return self._state

    @property
    def is_failing(self) -> bool:
        """Whether the latest attempt to write failed."""
        return self._is_failing

    def append(self, fields: Mapping[str, Any]) -> Future[None]:
        """Queue a line; return at once.

        Args:
            fields: content of the line; the time is added.

        Returns:
            A future that is done when the line is written, and fails with OSError if it cannot be.
        """
        moment = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        waiting = _Waiting({"time": moment, **fields})
        with self._changed:
            self._waiting.append(waiting)
            if len(self._waiting) > MOST_WAITING:
                self._give_up(self._waiting.popleft())
            self._changed.notify()
        return waiting.written

    def close(self, timeout_s: float = 5.0) -> None:
        """Write waiting lines, publish the head and end the thread."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._is_closing and (not self._waiting or self._is_failing):
                    self._changed.wait(SYNC_INTERVAL_S)
                is_last, batch = self._is_closing, list(self._waiting)
            self._write(batch)
            if time.monotonic() - self._head_at >= HEAD_INTERVAL_S:
                self._publish_head()
            if is_last:
                self._publish_head()
                os.close(self._descriptor)
                return

    def _write(self, batch: list[_Waiting]) -> None:
        """Write all lines or none; fsync when it is due."""
        try:
            self._begin_file_if_due()
            lines = [*self._remarks(), *(one.fields for one in batch)]
            if lines:
                self._append_lines(lines)
                self._lost = 0
            self._sync_if_due()
        except OSError as error:
            self._note_failure(error, batch)
            return
        if self._is_failing:
            self._is_failing = False
            self._watch.on_failing(False)
            logger.info("audit log written again")
        with self._changed:
            for one in batch:
                if self._waiting and self._waiting[0] is one:
                    self._waiting.popleft()
        for one in batch:
            if not one.written.done():
                one.written.set_result(None)
        self._watch.on_written(len(batch))

    def _remarks(self) -> list[dict[str, Any]]:
        """Return lines about a past failure; writing the first also tests whether it is over."""
        remarks: list[dict[str, Any]] = [{"event": "written again"}] if self._is_failing else []
        return remarks + ([{"event": "lines lost", "lines": self._lost}] if self._lost else [])

    def _append_lines(self, lines: list[Mapping[str, Any]]) -> None:
        state, pieces = self._state, []
        for fields in lines:
            piece, state = sealed_line(fields, state, self._key)
            pieces.append(piece)
        if self._half_line_at is not None:  # of an earlier failure; it would break the chain
            os.ftruncate(self._descriptor, self._half_line_at)
        data, self._half_line_at = b"".join(pieces), os.fstat(self._descriptor).st_size
        written = 0
        while written < len(data):
            written += os.write(self._descriptor, data[written:])
        self._state, self._is_dirty, self._half_line_at = state, True, None

    def _note_failure(self, error: OSError, batch: list[_Waiting]) -> None:
        if not self._is_failing:
            self._watch.on_failing(True)
        self._is_failing = True
        fields = {"reason": error.strerror or type(error).__name__, "waiting": len(batch)}
        logger.error("audit log not written", extra={"fields": fields})
        if self._keeps_waiting:
            return
        with self._changed:
            for one in batch:
                self._waiting.remove(one)
        for one in batch:
            one.written.set_exception(OSError(error.errno, error.strerror))

    def _give_up(self, waiting: _Waiting) -> None:
        self._lost += 1
        waiting.written.set_exception(OSError("too many lines wait"))
        self._watch.on_lost(1)

    def _open(self) -> None:
        """Open the file for appending, and continue or begin its chain."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o640)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise AuditError(f"Another process writes the audit log {self._path}.") from None
        self._descriptor = descriptor
        size_bytes = os.fstat(descriptor).st_size
        if size_bytes == 0:
            self._append_lines([self._first_line()])
            return
        try:
            self._state, torn = state_at_end(self._path, self._key)
            if torn:
                if not self._path.read_bytes().endswith(b"\n"):
                    os.write(descriptor, b"\n")
                self._append_lines([torn_fields(torn)])
        except BaseException:
            os.close(descriptor)
            raise

    def _first_line(self) -> dict[str, Any]:
        if self._state.entries == 0:
            return {"event": BEGUN}
        return {"event": CONTINUED, "previous_seal": self._state.seal}

    def _begin_file_if_due(self) -> None:
        """Begin a new file if this one is large or was moved away."""
        try:
            is_ours = os.stat(self._path).st_ino == os.fstat(self._descriptor).st_ino
        except FileNotFoundError:
            is_ours = False
        if is_ours and os.fstat(self._descriptor).st_size < self._max_bytes:
            return
        os.fsync(self._descriptor)
        if is_ours:
            first = self._state.entries
            os.rename(self._path, self._path.with_name(f"{self._path.stem}-to-{first:012d}.jsonl"))
        before = self._descriptor
        self._open()
        os.close(before)

    def _sync_if_due(self) -> None:
        now = time.monotonic()
        is_due = now - self._synced_at >= SYNC_INTERVAL_S or self._is_closing
        if self._is_dirty and is_due:
            os.fsync(self._descriptor)
            self._synced_at, self._is_dirty = now, False

    def _publish_head(self) -> None:
        self._head_at = time.monotonic()
        self._watch.on_head(self._state)
        fields = {"entries": self._state.entries, "seal": self._state.seal}
        logger.info("audit head", extra={"fields": fields})
