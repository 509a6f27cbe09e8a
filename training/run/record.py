"""The record of a run beside its weights: settings, provenance and rows."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training.config import RunConfig
from training.errors import CheckpointError

CONFIG = "config.json"
"""Name of the file with a run's settings."""

BEGINNING = "provenance.json"
"""Name of the file with a run's provenance and rows."""


@dataclass(frozen=True)
class RunRecord:
    """The record of a run.

    Attributes:
        provenance: Command, commit, hash of the manifest, number and hash of the names used.
        rows: Digest of every row, by split and name.
        trained_on: Source, convention, licence and name of all training X-rays of the model, in
            this run and in those that it continues.
        counted_before: Source, convention, licence and number of the training X-rays of its stored
            base model, whose names are not stored.
        teachers: Hash of the weights of each teacher.
    """

    provenance: Mapping[str, Any] = field(default_factory=dict)
    rows: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    trained_on: Sequence[Sequence[str]] = ()
    counted_before: Sequence[Sequence[Any]] = ()
    teachers: Sequence[str] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain types for checkpoints and JSON."""
        return {
            "provenance": dict(self.provenance),
            "rows": {split: dict(rows) for split, rows in self.rows.items()},
            "trained_on": [list(entry) for entry in self.trained_on],
            "counted_before": [list(entry) for entry in self.counted_before],
            "teachers": list(self.teachers),
        }

    def of_the_beginning(self, state: Mapping[str, Any]) -> RunRecord:
        """Return the record with the provenance of the run's beginning."""
        return dataclasses.replace(self, provenance=state.get("provenance", self.provenance))


NO_RECORD = RunRecord()
"""Record of a loop that Python code runs on its own batches."""


def write_beginning(folder: Path, config: RunConfig, record: RunRecord) -> None:
    """Write settings and record into a run's folder, which is created if missing."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, values in ((BEGINNING, record.to_dict()), (CONFIG, config.to_dict())):
        partial = folder / f"{name}.partial"
        partial.write_text(json.dumps(values, indent=2), encoding="utf-8")
        os.replace(partial, folder / name)


def read_beginning(folder: Path) -> dict[str, Any]:
    """Return settings and record of a run that was stopped before its first checkpoint.

    Raises:
        CheckpointError: There is no run in the folder.
    """
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        record = json.loads((folder / BEGINNING).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise CheckpointError(
            f"{folder} holds no run to resume; begin one without --resume"
        ) from error
    return {"config": config, "step": 0, **record}
