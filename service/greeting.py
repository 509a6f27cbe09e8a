"""What the service prints when a person starts it in a terminal: its address and its model."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import TextIO

_PERIOD_S = 0.1


def greet_when_ready(
    url: str, sentence: Callable[[], str | None], output: TextIO = sys.stdout
) -> threading.Thread:
    """Write one line as soon as the service may answer.

    Args:
        url: where it listens.
        sentence: says what is served, None until it is ready.
        output: where to write.

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
