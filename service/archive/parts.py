"""The parts of a result: a Parquet file for each batch of X-rays, written whole or not at all.

The name of a part is a digest of its X-rays. An actor gets a batch again if an actor was killed
before it reported the batch. It then finds the part and does nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow
from pyarrow import parquet

from service.archive.errors import ArchiveError
from service.archive.locations import Location, location_of
from service.archive.rows import FAILED, table_of

RESULTS = "results"
_PLAN_NAME = "run.json"
_MOST_BYTES = 2**33


class ResultFolder:
    """The folder that a run writes."""

    def __init__(self, output: str) -> None:
        """Keep the location; nothing is written yet.

        Raises:
            ArchiveError: no file system reads the address.
        """
        self.location = location_of(output)

    def require_same(self, settings: Mapping[str, Any]) -> None:
        """Store a run's settings, or refuse to mix its rows with rows of other settings.

        Raises:
            ArchiveError: an earlier run in this folder had other settings, or the folder cannot be
                written.
        """
        plan = self.location.below(_PLAN_NAME)
        try:
            if not plan.exists():
                plan.write(json.dumps(dict(settings), indent=1).encode())
                return
            before: dict[str, Any] = json.loads(plan.read(_MOST_BYTES))
        except (OSError, ValueError) as error:
            raise ArchiveError(f"{plan.address}: {' '.join(str(error).split())}.") from None
        for name, value in settings.items():
            if before.get(name) != value:
                raise ArchiveError(
                    f"{self.location.address} holds a run with {name} {before.get(name)}, and this "
                    f"one asks for {value}; choose another --output."
                )

    def part_of(self, input_ids: Sequence[str]) -> Location:
        """Return the file for the rows of these X-rays."""
        digest = hashlib.sha256("\n".join(sorted(input_ids)).encode()).hexdigest()[:24]
        return self.location.below(f"{RESULTS}/part-{digest}.parquet")

    def write(self, part: Location, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write a part.

        Raises:
            OSError: it cannot be written.
        """
        part.write(_as_parquet(table_of(rows)))

    def parts(self) -> list[Location]:
        """Return the existing parts."""
        folder = self.location.below(RESULTS)
        return [folder.at(path) for path in folder.files_below() if path.endswith(".parquet")]

    def counts(self, part: Location) -> tuple[int, int]:
        """Return how many rows of a part are done and how many failed."""
        status = self._read(part, ["status"])["status"].to_pylist()
        failed = status.count(FAILED)
        return len(status) - failed, failed

    def finished(self) -> set[str]:
        """Return the ids of all X-rays that have a row."""
        return {name for table in self.tables(["input_id"]) for name in table[0].to_pylist()}

    def tables(self, columns: Sequence[str]) -> Iterator[pyarrow.Table]:
        """Yield these columns of one part after another."""
        for part in self.parts():
            yield self._read(part, list(columns))

    def forget_failures(self) -> int:
        """Remove the rows of failures, so that they are tried again; return their number."""
        forgotten = 0
        for part in self.parts():
            if not self.counts(part)[1]:
                continue
            table = self._read(part, None)
            kept = table.filter(pyarrow.compute.not_equal(table["status"], FAILED))
            forgotten += table.num_rows - kept.num_rows
            if kept.num_rows:
                part.write(_as_parquet(kept))
            else:
                part.files.delete_file(part.path)
        return forgotten

    def _read(self, part: Location, columns: list[str] | None) -> pyarrow.Table:
        try:
            return parquet.read_table(part.path, columns=columns, filesystem=part.files)
        except (OSError, pyarrow.ArrowException) as error:
            reason = " ".join(str(error).split())
            raise ArchiveError(f"{part.address} cannot be read: {reason}.") from None


def _as_parquet(table: pyarrow.Table) -> pyarrow.Buffer:
    stream = pyarrow.BufferOutputStream()
    parquet.write_table(table, stream, compression="zstd")
    return stream.getvalue()
