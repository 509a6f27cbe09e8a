"""The run's diary: one JSON line per event, appended, so that a killed run loses none."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any


class RunLog:
    """Appends events to ``log.jsonl`` in the run's folder."""

    def __init__(self, folder: Path) -> None:
        """Log into ``folder``."""
        self._path = folder / "log.jsonl"

    def write(self, event: str, **values: Any) -> None:
        """Append one event with the time of day in seconds since 1970."""
        line = json.dumps({"event": event, "time_s": round(time.time(), 3), **values})
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
