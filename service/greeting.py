"""The line that the service prints in a terminal: its address and its model."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TextIO

_PERIOD_S = 0.1


def greet_when_ready(
    url: str, sentence: Callable[[], str | None], output: TextIO | None = None
) -> threading.Thread:
    """Write one line as soon as the service is ready.

    Args:
        url: address of the service.
        sentence: returns what is served; None until the service is ready.
        output: stream to write to; standard output when None.

    Returns:
        The thread that waits; it ends with the process.
    """

    def wait_and_write() -> None:
        while (served := sentence()) is None:
            time.sleep(_PERIOD_S)
        print(f"\nOpen {url}\n{served}. Ctrl+C stops it.\n", file=output, flush=True)

    thread = threading.Thread(target=wait_and_write, name="greeting", daemon=True)
    thread.start()
    return thread
