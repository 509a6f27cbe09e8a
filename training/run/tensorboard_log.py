"""The numbers of a run as TensorBoard curves, for those who have it installed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training.errors import ConfigError
from training.run.number_log import numbers_of

FOLDER = "tensorboard"


class TensorBoardLog:
    """Writes event files into ``tensorboard/`` in the run's folder."""

    def __init__(self, folder: Path) -> None:
        """Open the event file.

        Raises:
            ConfigError: TensorBoard is not installed.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ModuleNotFoundError as error:
            raise ConfigError(
                "tensorboard = true needs TensorBoard, which is not installed: "
                "pip install 'adalora-qat[tensorboard]'"
            ) from error
        self._writer = SummaryWriter(str(folder / FOLDER))

    def write(self, event: str, values: Mapping[str, Any]) -> None:
        """Add the numbers of one event at its step; tables become one curve per row."""
        if "step" not in values:
            return
        for name, number in numbers_of(event, values):
            self._writer.add_scalar(name, number, values["step"])
        self._writer.flush()
