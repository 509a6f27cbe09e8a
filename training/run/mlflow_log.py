"""The numbers of a run on an MLflow server, for those who have one."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from training.errors import ConfigError
from training.run.number_log import numbers_of

ADDRESS_VARIABLE = "MLFLOW_TRACKING_URI"
"""MLflow's own variable for its server."""

EXPERIMENT = "adalora-qat"

_LONGEST_VALUE = 500
"""Most characters of a parameter in MLflow."""


class MlflowLog:
    """Logs settings and numbers as one run of the experiment ``adalora-qat``."""

    def __init__(self, folder: Path) -> None:
        """Begin a run with the folder's name.

        Raises:
            ConfigError: MLflow is not installed, no server is named, or it does not answer.
        """
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # it would send usage reports
        try:
            from mlflow import MlflowClient
            from mlflow.exceptions import MlflowException
        except ModuleNotFoundError as error:
            raise ConfigError(
                "mlflow = true needs MLflow, which is not installed: "
                "pip install 'adalora-qat[mlflow]'"
            ) from error
        address = os.environ.get(ADDRESS_VARIABLE)
        if not address:
            raise ConfigError(f"mlflow = true needs the server's address in {ADDRESS_VARIABLE}")
        self._failure = MlflowException
        try:
            self._client = MlflowClient(tracking_uri=address)
            experiment = self._client.get_experiment_by_name(EXPERIMENT)
            number = (
                experiment.experiment_id
                if experiment is not None
                else self._client.create_experiment(EXPERIMENT)
            )
            begun = self._client.create_run(number, run_name=folder.name)
        except MlflowException as error:
            raise ConfigError(f"mlflow = true, but its server refuses: {error}") from error
        self._run_id = str(begun.info.run_id)

    def write(self, event: str, values: Mapping[str, Any]) -> None:
        """Add the numbers of one event at its step, and the settings of a start event.

        Raises:
            OSError: The server did not accept them.
        """
        from mlflow.entities import Metric, Param

        if "step" not in values:
            return
        now_ms, step = int(time.time() * 1000), int(values["step"])
        metrics = [Metric(name, number, now_ms, step) for name, number in numbers_of(event, values)]
        settings = [
            Param(name, text[:_LONGEST_VALUE])
            for name, text in _settings("", values.get("config", {}))
        ]
        try:
            self._client.log_batch(self._run_id, metrics=metrics, params=settings)
            if event == "end":
                self._client.set_terminated(self._run_id)
        except self._failure as error:
            raise OSError(None, f"MLflow: {error}") from error


def _settings(prefix: str, values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _settings(f"{prefix}{name}.", value)
        else:
            yield f"{prefix}{name}", str(value)
