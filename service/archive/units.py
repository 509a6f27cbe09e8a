"""The actor that Ray places on hosts: a model process and its image workers."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow

from service.archive.inputs import ArchiveInput
from service.archive.parts import ResultFolder
from service.archive.segmenter import ResultOptions, Segmenter
from service.heap import keep_one_heap
from service.logging import configure_logging
from service.settings import Settings


@dataclass(frozen=True)
class UnitPlan:
    """The settings of an actor, which the driver sends to every actor."""

    output: str  # folder or address of the results; every host must reach it
    settings: Settings
    options: ResultOptions


class Unit:
    """Turns a batch of X-rays into a part of the result; Ray Data calls it."""

    def __init__(self, plan: UnitPlan) -> None:
        """Start the processes of this host.

        Raises:
            ArchiveError: the model cannot be used here.
        """
        keep_one_heap()
        configure_logging()
        self._folder = ResultFolder(plan.output)
        self._segmenter = Segmenter(plan.settings, plan.options, self._folder.location)

    def __call__(self, batch: pyarrow.Table) -> pyarrow.Table:
        """Segment a batch, unless its part exists.

        Args:
            batch: rows of `INPUT_SCHEMA`.

        Returns:
            One row with the numbers of X-rays done and failed.
        """
        inputs = [
            ArchiveInput(row["input"], row["boxes"], row["convention"]) for row in batch.to_pylist()
        ]
        part = self._folder.part_of([one.input_id for one in inputs])
        if not part.exists():
            self._folder.write(part, self._segmenter.rows(inputs))
        done, failed = self._folder.counts(part)
        return pyarrow.table({"done": [done], "failed": [failed]})
