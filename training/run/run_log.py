"""The run's log: one JSON line per event, appended, so that a killed run loses none."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from training.run.mlflow_log import MlflowLog
from training.run.number_log import NumberLog
from training.run.tensorboard_log import TensorBoardLog


class RunLog:
    """Appends events to ``log.jsonl`` in the run's folder."""

    def __init__(
        self,
        folder: Path,
        *,
        writes: bool = True,
        tensorboard: bool = False,
        mlflow: bool = False,
    ) -> None:
        """Log into ``folder``.

        Args:
            folder: The run's folder.
            writes: Whether this process logs; only one of a run does.
            tensorboard: Whether the numbers also go to TensorBoard.
            mlflow: Whether they also go to an MLflow server.

        Raises:
            ConfigError: A requested one is not installed, or there is no server.
        """
        self._path = folder / "log.jsonl"
        self._writes = writes
        self._also: list[NumberLog] = []
        if tensorboard and writes:
            self._also.append(TensorBoardLog(folder))
        if mlflow and writes:
            self._also.append(MlflowLog(folder))

    def write(self, event: str, **values: Any) -> None:
        """Append one event with the time of day in seconds since 1970.

        A full disk or a lost server only loses the line.
        """
        if not self._writes:
            return
        line = json.dumps({"event": event, "time_s": round(time.time(), 3), **values})
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
            for log in self._also:
                log.write(event, values)
        except OSError as error:
            print(f"{self._path}: {error.strerror}; not logged: {line}", file=sys.stderr)
