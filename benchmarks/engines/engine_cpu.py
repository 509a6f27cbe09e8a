"""Benchmark of engines on the CPU: models, batch sizes, and rounds within a budget of seconds.

A cell is a model at a batch size. All its rows are loaded, each in its own process, warmed up once,
and then called in turn, round after round, so that other work on the machine disturbs all alike.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.engines.engine_rows import Row, Timing, print_rows, rows_of_cell
from benchmarks.engines.peers.known_peers import EAGER, OWN_INT8, PEERS
from benchmarks.engines.peers.peer import PeerJob, PeerUnavailableError
from benchmarks.engines.product_ceiling import ProductCeiling, encoder_operations
from benchmarks.engines.row_process import STAGES, RowProcess, answer_questions, prepare_files
from model_store.architecture import SamConfig
from model_store.artifact import read_manifest
from training.data.prompts import tight_box
from training.evaluation.metrics import dice
from training.phantom import draw_phantom

IMAGE_SIDE = 1024
LARGEST_ROUNDS = 25
SCORES_LIMIT_BYTES = 3 * 2**30
"""Most memory that the N x N scores of one pass of FP32 eager may take; larger batches are cut."""
SPARE_ROWS = 1.3
"""Free memory required before a row is loaded, as a multiple of the largest row so far: for itself,
and for what the others allocate again."""


@dataclass(frozen=True)
class ModelPair:
    """A stored model in INT8 and its twin before quantization."""

    label: str
    int8_folder: Path
    float_folder: Path


@dataclass
class Notes:
    """Remarks of the table beside its numbers."""

    lines: list[str] = field(default_factory=list)

    def add(self, line: str) -> None:
        """Keep and print a line."""
        self.lines.append(line)
        print(line, flush=True)


class CpuBenchmark:
    """Measures cells in turn until the budget is spent."""

    def __init__(
        self, workspace: Path, labels: Sequence[str], threads: int, budget_s: float, rounds: int
    ) -> None:
        """Measure the rows ``labels``; ``rounds`` is the most that a cell gets."""
        self._workspace, self._labels, self._threads = workspace, labels, threads
        self._end, self._rounds = time.monotonic() + budget_s, rounds
        self._ceiling = ProductCeiling()
        self._seconds_per_image: dict[str, float] = {}
        self.notes = Notes()
        self.rows: list[Row] = []
        self.ceilings: list[float] = []

    def measure(self, pair: ModelPair, batch: int, cells_left: int) -> None:
        """Measure one cell, unless the budget is too small."""
        left_s = self._end - time.monotonic()
        needed_s = 2 * batch * self._seconds_per_image.get(pair.label, 0.0)
        name = f"{pair.label}, batch {batch}"
        if needed_s > left_s:
            self.notes.add(f"{name}: not begun, needs {needed_s:.0f} s and {left_s:.0f} s are left")
            return
        job = self._job(pair, batch)
        if job.at_once < batch:
            self.notes.add(
                f"{name}: peers encode {job.at_once} at once; the scores of more would take FP32 "
                f"eager over {SCORES_LIMIT_BYTES / 2**30:.0f} GiB"
            )
        cell = _Cell(self.notes, name)
        try:
            self._load(cell, name, job)
            stop_by = time.monotonic() + (self._end - time.monotonic()) / cells_left
            speeds: list[float] = []
            longest = 0.0
            for _ in range(self._rounds):
                if speeds and time.monotonic() + longest > stop_by:
                    break
                began = time.monotonic()
                cell.run_round()
                speeds.append(self._ceiling.measure())
                longest = max(longest, time.monotonic() - began)
            timings = cell.finish()
        finally:
            cell.close()
        self._keep(pair, batch, timings, speeds)

    def _keep(
        self, pair: ModelPair, batch: int, timings: dict[str, Timing], speeds: list[float]
    ) -> None:
        if not timings:
            return
        all_s = [sum(times) / 1e3 for t in timings.values() for times in t.milliseconds.values()]
        rounds = len(speeds)
        self._seconds_per_image[pair.label] = sum(all_s) / rounds / batch
        share = None
        if OWN_INT8 in timings:
            encoder_s = np.array(timings[OWN_INT8].milliseconds[STAGES[0]]) / 1e3
            wanted = batch * encoder_operations(pair.int8_folder)
            share = float(np.median(wanted / encoder_s / np.array(speeds)))
        rows = rows_of_cell(
            pair.label, batch, timings, eager=EAGER, own_int8=OWN_INT8, encoder_share=share,
            fp32_peers=[name for name, peer in PEERS.items() if peer.fp32_peer],
        )  # fmt: skip
        print_rows(rows)
        engine = timings[OWN_INT8].engine if OWN_INT8 in timings else None
        print(
            f"ceiling {statistics.median(speeds) / 1e9:.0f} billion integer operations a second; "
            f"our engine: {engine}"
        )
        self.rows += rows
        self.ceilings += speeds

    def _job(self, pair: ModelPair, batch: int) -> PeerJob:
        config = SamConfig.from_dict(read_manifest(pair.float_folder).architecture)
        phantoms = [draw_phantom(11 + index, (IMAGE_SIDE, IMAGE_SIDE)) for index in range(batch)]
        images = self._workspace / f"xrays_{batch}.npy"
        np.save(images, np.stack([phantom.image for phantom in phantoms]))
        box = tight_box(np.any([phantom.lung_field for phantom in phantoms], axis=0))
        digest = read_manifest(pair.float_folder).weights.sha256[:12]
        return PeerJob(
            label="", int8_folder=pair.int8_folder, float_folder=pair.float_folder,
            exported=self._workspace / f"graphs_{digest}", images=images,
            box=box or (0.0, 0.0, float(IMAGE_SIDE), float(IMAGE_SIDE)),
            at_once=images_at_once(config, batch), threads=self._threads,
        )  # fmt: skip

    def _load(self, cell: _Cell, name: str, job: PeerJob) -> None:
        """Prepare, load and warm up row after row, as long as there is memory."""
        for label in self._labels:
            job = replace(job, label=label)
            left_mib, wanted_mib = available_mib(), SPARE_ROWS * cell.largest_peak_mib
            if left_mib < wanted_mib:
                self.notes.add(
                    f"{name}, {label}: not loaded, {left_mib:.0f} MiB of memory are left, "
                    f"less than {SPARE_ROWS} times the largest row's"
                )
                continue
            try:
                if PEERS[label].prepare is not None:
                    _ask_once(RowProcess(prepare_files, job), "prepare")
            except PeerUnavailableError as error:
                self.notes.add(f"{name}, {label}: {error}")
            else:
                cell.add(label, RowProcess(answer_questions, job))


class _Cell:
    """The loaded rows of a cell; a failing row is removed."""

    def __init__(self, notes: Notes, name: str) -> None:
        self._notes, self._name = notes, name
        self._rows: dict[str, RowProcess] = {}
        self._timings: dict[str, Timing] = {}
        self._masks: dict[str, Any] = {}
        self.largest_peak_mib = 0.0

    def add(self, label: str, row: RowProcess) -> None:
        """Load a row, encode once, and predict the masks for comparison."""
        self._rows[label] = row
        self._timings[label] = Timing(milliseconds={stage: [] for stage in STAGES})
        for question in ("load", STAGES[0], "masks", "memory"):
            answer = self._ask(label, question)
            if answer is None:
                return
            if question == "masks":
                self._masks[label] = answer
        self.largest_peak_mib = max(self.largest_peak_mib, answer["peak"])

    def close(self) -> None:
        """End all rows."""
        for row in self._rows.values():
            row.close()

    def run_round(self) -> None:
        """Time every stage of every row, stage by stage."""
        for stage in STAGES:
            for label in list(self._timings):
                milliseconds = self._ask(label, stage)
                if milliseconds is not None:
                    self._timings[label].milliseconds[stage].append(milliseconds)

    def finish(self) -> dict[str, Timing]:
        """Return the results of the remaining rows."""
        truth = self._masks.get(EAGER)
        for label, timing in list(self._timings.items()):
            memory = self._ask(label, "memory")
            if memory is None:
                continue
            timing.peak_mib, timing.empty_mib = memory["peak"], memory["empty"]
            timing.engine = self._ask(label, "engine")
            if truth is not None:
                pairs = zip(self._masks[label], truth, strict=True)
                scores = [dice(np.unpackbits(a).astype(bool), np.unpackbits(b).astype(bool))
                          for a, b in pairs]  # fmt: skip
                timing.dice = statistics.mean(scores)
        return self._timings

    def _ask(self, label: str, question: str) -> Any:
        try:
            return self._rows[label].ask(question)
        except PeerUnavailableError as error:
            self._notes.add(f"{self._name}, {label}: {error}")
            self._rows.pop(label).close()
            self._timings.pop(label)
            return None


def images_at_once(config: SamConfig, batch: int) -> int:
    """Return the largest number of images in one encoder pass of a peer.

    FP32 eager holds three arrays of all pairs of tokens: scores, scores with positions, softmax.
    """
    pairs = config.grid_size**4 * config.num_heads
    return max(1, min(batch, SCORES_LIMIT_BYTES // (3 * 4 * pairs)))


def available_mib() -> float:
    """Return the available memory in MiB; infinite if the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return float("inf")
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("MemAvailable"))


def _ask_once(row: RowProcess, question: str) -> Any:
    try:
        return row.ask(question)
    finally:
        row.close()
