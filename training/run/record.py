"""What is written down of a run beside its weights: settings, provenance and rows."""

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
"""The settings of a run, in its folder."""

BEGINNING = "provenance.json"
"""Where a run comes from and which rows it uses, in its folder."""


@dataclass(frozen=True)
class RunRecord:
    """Where a run comes from.

    Attributes:
        provenance: Command, commit, hash of the manifest, number and hash of the names used.
        rows: Digest of every row, by split and name.
        trained_on: Source, convention, licence and name of all that the model has learned from,
            in this run and in those that it goes on from.
        counted_before: Source, convention, licence and number of X-rays of a stored model that it
            goes on from; their names are not stored.
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
        """Return the record with the provenance that a run was begun with."""
        return dataclasses.replace(self, provenance=state.get("provenance", self.provenance))


NO_RECORD = RunRecord()
"""Of a loop that is run from Python on batches of its own."""


def write_beginning(folder: Path, config: RunConfig, record: RunRecord) -> None:
    """Write settings and record into a run's folder, which is made when it is not there."""
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
