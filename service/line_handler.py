"""A log handler for streams that can fail: a full disk, a reader that is gone or that hangs.

By default Python's logging prints a traceback for each line that it cannot write, waits for a
reader that hangs, and its stream writes parts of lines later. Here a line is written whole and at
once, or counted as lost. When writing works again, a line first states how many were lost.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from io import UnsupportedOperation
from typing import TextIO

from service.line_writer import LineWriter


class LineHandler(logging.Handler):
    """Writes each record as one line.

    Attributes:
        lost_lines: lines that could not be written, since the start.
        on_lost: called for each lost line.
    """

    def __init__(self, stream: TextIO) -> None:
        """Write to a stream, without its buffer if it has a file descriptor."""
        super().__init__()
        self.lost_lines = 0
        self.on_lost: Callable[[], None] = lambda: None
        self._stream = stream
        self._untold = 0
        self._writer: LineWriter | None = None

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
        except Exception as error:  # the border: logging must never raise
            return self.format(_unreadable(record, error))

    def _write(self, text: str) -> None:
        try:
            descriptor = self._stream.fileno()
        except UnsupportedOperation:  # a stream in memory
            self._stream.write(text + "\n")
            self._stream.flush()
            return
        if self._writer is None or self._writer.descriptor != descriptor:
            self._writer = LineWriter(descriptor)
        self._writer.write(f"{text}\n".encode())


def _lines_lost(count: int) -> logging.LogRecord:
    record = logging.LogRecord(
        "service.logging", logging.ERROR, __file__, 0, "log lines lost", (), None
    )
    record.fields = {"count": count}
    return record


def _unreadable(record: logging.LogRecord, error: Exception) -> logging.LogRecord:
    """Return a line for an unformattable record, without its text, which may name a patient."""
    found = logging.LogRecord(
        record.name, record.levelno, record.pathname, record.lineno, "line not readable", (), None
    )
    where = f"{record.module}:{record.lineno}"
    found.fields = {"error_type": type(error).__name__, "where": where}
    return found
