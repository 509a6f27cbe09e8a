"""The file that pynetdicom writes while it receives an object; a full disk ends no association.

An error in its `write` would end the thread that reads the association: the sender would get no
status, and the association would keep its place forever. Here the error is kept and further bytes
are discarded, so that the sender gets a status at the end.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


class ReceivedFile:
    """The part of `NamedTemporaryFile` that pynetdicom uses.

    Attributes:
        name: path of the file.
        error: why the file is incomplete; None while it is complete.
    """

    def __init__(self, folder: Path) -> None:
        """Create the file; a failure counts as one of writing.

        Args:
            folder: folder of the file.
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
        """Write, or discard after a failure; return the number of bytes."""
        self._attempt(lambda: self._file.write(data))
        return len(data)

    def flush(self) -> None:
        """Flush everything to the system."""
        self._attempt(lambda: self._file.flush())

    def close(self) -> None:
        """Close it; may be repeated."""
        if self._file is not None:
            self._attempt(lambda: self._file.close())
            with contextlib.suppress(OSError):  # repeats the failed write
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
                os.truncate(self.name, 0)  # others need the disk space
