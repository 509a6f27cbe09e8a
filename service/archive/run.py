"""One run over an archive: find X-rays without a row, segment them, write the summary page."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow

from model_store.model_index import default_model_folder
from service.archive import cluster
from service.archive.errors import ArchiveError
from service.archive.inputs import INPUT_SCHEMA, ArchiveInput, inputs_of
from service.archive.parts import ResultFolder
from service.archive.progress import Progress
from service.archive.segmenter import ResultOptions
from service.archive.summary import write_summary
from service.archive.units import UnitPlan
from service.settings import Settings


@dataclass(frozen=True)
class ArchiveRun:
    """The settings of a run.

    Attributes:
        sources: folders, files, patterns and tables.
        output: folder or address of the results.
        convention: convention of X-rays whose table names none.
        settings: limits and model of the service.
        options: results to make of each X-ray.
        size: processors and GPUs of an actor.
        actors: number of actors; None for as many as fit.
        rows_per_part: number of X-rays in a batch.
        ray_address: address of a Ray cluster; None starts Ray on this machine.
        local_cpus: processors for Ray on this machine; None for those that this process may use.
        retries_failures: whether X-rays that failed in an earlier run are tried again.
        contact_sheet: number of least confident X-rays shown on the page.
    """

    sources: Sequence[str]
    output: str
    convention: str
    settings: Settings
    options: ResultOptions
    size: cluster.UnitSize
    actors: int | None
    rows_per_part: int
    ray_address: str | None = None
    local_cpus: int | None = None
    retries_failures: bool = False
    contact_sheet: int = 24


def run_archive(run: ArchiveRun) -> dict[str, Any]:
    """Segment X-rays without a row, and write the summary page of all X-rays.

    Returns:
        Number of X-rays in total, in this run, and failed, and the address of the page.

    Raises:
        ArchiveError: the run cannot begin or continue; finished parts stay, and the same command
            continues from them.
    """
    folder = ResultFolder(run.output)
    folder.require_same(_plan_of(run))
    if run.retries_failures:
        folder.forget_failures()
    finished = folder.finished()
    inputs = list(inputs_of(run.sources, run.convention))
    if not inputs:
        raise ArchiveError("--input names no file.")
    left = [one for one in inputs if one.input_id not in finished]
    progress = Progress(len(inputs), len(inputs) - len(left))
    with cluster.joined(run.ray_address, run.local_cpus):
        plan = UnitPlan(run.output, run.settings, run.options)
        actors = run.actors or cluster.most_units(run.size)
        batches = list(_batches(left, run.rows_per_part))
        if batches:
            actors = min(actors, len(batches))
            for done, failed in cluster.segmented_batches(plan, batches, run.size, actors):
                progress.add(done, failed)
        summary = write_summary(folder, run.contact_sheet, lambda least: _overlays(run, least))
    return {"new": len(left), **summary}


def _plan_of(run: ArchiveRun) -> dict[str, Any]:
    """Return the settings that must not change between runs into one folder."""
    model = run.settings.model or default_model_folder()
    try:
        digest = hashlib.sha256((model / "manifest.json").read_bytes()).hexdigest()
    except OSError as error:
        raise ArchiveError(f"{model} holds no model: {error.strerror}.") from None
    return {
        "threshold": run.options.threshold,
        "lungs": run.options.lungs.value,
        "max_pixels": run.settings.max_pixels,
        "max_upload_bytes": run.settings.max_upload_bytes,
        "manifest_sha256": digest,
    }


def _batches(inputs: Iterable[ArchiveInput], size: int) -> Iterator[pyarrow.Table]:
    remaining = iter(inputs)
    while batch := list(itertools.islice(remaining, size)):
        yield pyarrow.Table.from_pylist([one.row() for one in batch], schema=INPUT_SCHEMA)


def _overlays(run: ArchiveRun, least_sure: Sequence[ArchiveInput]) -> ResultFolder:
    """Segment some X-rays once more, with overlays, into a separate folder."""
    output = ResultFolder(run.output).location.below("contact_sheet").address
    plan = UnitPlan(output, run.settings, ResultOptions(run.options.threshold, overlays=True))
    batches = list(_batches(least_sure, run.rows_per_part))
    for _ in cluster.segmented_batches(plan, batches, run.size, 1):
        pass
    return ResultFolder(output)
