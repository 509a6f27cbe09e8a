"""Writes log lines where they may be lost: a full disk, a reader that is gone.

By default Python's logging prints a traceback for each line that it cannot write, and what its
stream keeps of such lines is written later in pieces. Here a line is written whole and at once, or
it is counted. The first line that can be written again follows one that says how many were lost.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from io import UnsupportedOperation
from os import write
from typing import TextIO


class LineHandler(logging.Handler):
    """Writes each record as one line.

    Attributes:
        lost_lines: lines that could not be written, since the start.
        on_lost: called for each of them.
    """

    def __init__(self, stream: TextIO) -> None:
        """Write to a stream; past its buffer, if it stands for a file."""
        super().__init__()
        self.lost_lines = 0
        self.on_lost: Callable[[], None] = lambda: None
        self._stream = stream
        self._untold = 0
        self._is_torn = False

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, or count it as lost."""
        try:
            if self._untold:
                self._write(self.format(_lines_lost(self._untold)))
                self._untold = 0
            self._write(self._text_of(record))
        except (OSError, ValueError):  # ValueError: the stream is closed
            self.lost_lines += 1
            self._untold += 1
            self.on_lost()

    def _text_of(self, record: logging.LogRecord) -> str:
        try:
            return self.format(record)
        except Exception as error:  # the border: whoever logs must not fail by it
            return self.format(_unreadable(record, error))

    def _write(self, text: str) -> None:
        try:
            descriptor = self._stream.fileno()
        except UnsupportedOperation:  # a stream in memory
            self._stream.write(text + "\n")
            self._stream.flush()
            return
        line = f"{text}\n".encode()
        rest = memoryview(b"\n" + line if self._is_torn else line)
        while rest:
            rest = rest[write(descriptor, rest) :]
            self._is_torn = bool(rest)


def _lines_lost(count: int) -> logging.LogRecord:
    record = logging.LogRecord(
        "service.logging", logging.ERROR, __file__, 0, "log lines lost", (), None
    )
    record.fields = {"count": count}
    return record


def _unreadable(record: logging.LogRecord, error: Exception) -> logging.LogRecord:
    """Return what stands for a record that cannot be formatted; its words may name a patient."""
    found = logging.LogRecord(
        record.name, record.levelno, record.pathname, record.lineno, "line not readable", (), None
    )
    where = f"{record.module}:{record.lineno}"
    found.fields = {"error_type": type(error).__name__, "where": where}
    return found
