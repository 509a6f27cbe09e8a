"""The file into which pynetdicom writes an object while it comes; a full disk ends no association.

An error in its `write` would end the thread that reads the association: the sender would get no
status, and the association would keep its place forever. Here the error is kept, and what still
comes is thrown away, so that the sender gets a status at the end.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


class ReceivedFile:
    """What pynetdicom uses of a `NamedTemporaryFile`.

    Attributes:
        name: its path.
        error: why it is not whole, None while it is.
    """

    def __init__(self, folder: Path) -> None:
        """Make the file; one that cannot be made is one that cannot be written.

        Args:
            folder: where.
        """
        self.error: OSError | None = None
        self.name = str(folder / "not-made.dcm")
        self._file: Any = None
        self._attempt(lambda: self._make(folder))

    @property
    def file(self) -> ReceivedFile:
        """Itself: pynetdicom flushes the file below a temporary file."""
        return self

    def write(self, data: bytes) -> int:
        """Write, or throw away once that has failed; returns the bytes taken."""
        self._attempt(lambda: self._file.write(data))
        return len(data)

    def flush(self) -> None:
        """Hand everything to the system."""
        self._attempt(lambda: self._file.flush())

    def close(self) -> None:
        """Close it; may be repeated."""
        if self._file is not None:
            self._attempt(lambda: self._file.close())
            with contextlib.suppress(OSError):  # once more what could not be written
                self._file.close()

    def _make(self, folder: Path) -> None:
        descriptor, self.name = tempfile.mkstemp(suffix=".dcm", dir=folder)
        self._file = os.fdopen(descriptor, "wb")

    def _attempt(self, work: Callable[[], object]) -> None:
        if self.error is not None:
            return
        try:
            work()
        except OSError as error:
            self.error = error
            with contextlib.suppress(OSError):
                os.truncate(self.name, 0)  # others need the room
