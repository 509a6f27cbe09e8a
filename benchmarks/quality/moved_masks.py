"""Masks that a change in reading pictures moved: files, digests, Dice, a sheet of the worst.

Each named commit and its parent read all files; `--since COMMIT` compares that commit with this
folder's code. If both read the same pixels, the mask cannot move. Otherwise today's model segments
both readings in both conventions, so only pixels differ. Masks are in the stored orientation. With
`--data`, X-rays of `val` are also written as kinds of files that older code read differently
(`written_kinds`), and both masks are compared with the human mask.

    python -m benchmarks.quality.moved_masks FILES... --commits COMMIT... --sheet FILE.png
    python -m benchmarks.quality.moved_masks --data DATA --since COMMIT
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.processor import processor_name
from benchmarks.quality.gating import chosen, print_table
from benchmarks.quality.versions_reading import Reading, code_of, read_by
from benchmarks.quality.written_kinds import KINDS
from model_store.conventions import CONVENTIONS
from model_store.embedding_cache import EmbeddingCache
from model_store.model_index import default_model_folder
from model_store.predictor import PredictionRequest, Predictor
from service.imaging.legend import with_legend
from service.imaging.png_encoding import encode_png
from service.imaging.rendering import draw_overlay
from training.data.dataset import DataRow, load_xray, read_rows
from training.evaluation.metrics import dice

SHEET_COUNT, MOST_OF_A_KIND = 10, 2
PANEL_PX = 420
MOVED, SAME_MASK, REFUSED_NOW, READ_NOW = OUTCOMES = (
    "moved", "same mask", "refused now", "read now",
)  # fmt: skip
Masks = tuple[NDArray[np.bool_], ...]
"""Masks of both conventions."""


@dataclass(frozen=True)
class Truth:
    """The human mask of a written file.

    Attributes:
        mask: as the file is stored, (H, W).
        convention: which of `CONVENTIONS` it follows, by number.
    """

    mask: NDArray[np.bool_]
    convention: int

    def dice(self, masks: Masks) -> float:
        """Return the Dice with a model's mask of the same convention."""
        return dice(masks[self.convention], self.mask)


@dataclass(frozen=True)
class Moved:
    """A file that two versions read differently.

    Attributes:
        change: name of the change.
        file: the picture.
        before: the earlier version's reading.
        after: the later version's reading.
        masks: masks of both readings; empty if a reading is refused.
    """

    change: str
    file: Path
    before: Reading
    after: Reading
    masks: tuple[Masks, Masks]

    @property
    def kind(self) -> str:
        """The effect of the change, one of `OUTCOMES`."""
        if self.after.pixels is None:
            return REFUSED_NOW
        if self.before.pixels is None:
            return READ_NOW
        return SAME_MASK if min(self.dices) == 1 else MOVED

    @property
    def dices(self) -> list[float]:
        """Dice between both masks, for each convention; 0 if their sizes differ."""
        return [
            dice(one, two) if one.shape == two.shape else 0.0
            for one, two in zip(*self.masks, strict=True)
        ]

    def row(self) -> dict[str, str]:
        """Return its row; digests are of masks in the first convention."""
        are_both = all(self.masks)
        found = [f"{one:.3f}" for one in self.dices] if are_both else [""] * len(CONVENTIONS)
        return {
            "change": self.change,
            "file": self.file.name,
            "": self.kind,
            "before": _digest(self.masks[0]),
            "after": _digest(self.masks[1]),
            **{f"Dice {name}": one for name, one in zip(CONVENTIONS, found, strict=True)},
            "refusal": self.after.refusal or self.before.refusal,
        }


class Comparison:
    """Compares versions by one model's masks of their readings."""

    def __init__(self, model: Path, files: Sequence[Path]) -> None:
        self._predictor = Predictor.load(model, "cpu", cache=EmbeddingCache(64_000_000))
        self._files = files
        self.unmoved = 0

    def of(self, change: str, before: Path, after: Path) -> list[Moved]:
        """Return the files that two versions of the code read differently."""
        readings = zip(read_by(before, self._files), read_by(after, self._files), strict=True)
        moved = []
        for file, (one, two) in zip(self._files, readings, strict=True):
            if one.equals(two):
                self.unmoved += 1
            else:
                moved.append(Moved(change, file, one, two, (self._masks(one), self._masks(two))))
        return moved

    def _masks(self, reading: Reading) -> Masks:
        if reading.pixels is None:
            return ()
        upright = reading.turn.apply(reading.pixels)
        asked = [PredictionRequest(upright, (), convention) for convention in CONVENTIONS]
        found = [self._predictor.predict(request).masks[0].mask for request in asked]
        return tuple(reading.turn.invert(mask) for mask in found)


def _digest(masks: Masks) -> str:
    if not masks:
        return "refused"
    shape = np.array(masks[0].shape, np.int64).tobytes()
    return hashlib.sha256(shape + np.packbits(masks[0]).tobytes()).hexdigest()[:8]


def sheet_of(moved: Sequence[Moved]) -> NDArray[np.uint8]:
    """Return a picture of the masks that moved most: a row each, the earlier reading at the left.

    Args:
        moved: moved masks; at most two for each change and folder are shown.
    """
    worst = sorted((one for one in moved if one.kind == MOVED), key=lambda one: min(one.dices))
    met: Counter[tuple[str, Path]] = Counter()
    rows: list[NDArray[np.uint8]] = []
    for one in worst:
        met[one.change, one.file.parent] += 1
        if met[one.change, one.file.parent] <= MOST_OF_A_KIND and len(rows) < SHEET_COUNT:
            before = _panel(one.before, one.masks[0], f"{one.file.name[:38]} before")
            after = _panel(one.after, one.masks[1], f"{one.change[:30]} {min(one.dices):.3f}")
            rows.append(np.hstack([before, after]))
    return np.vstack(rows)


def _panel(reading: Reading, masks: Masks, said: str) -> NDArray[np.uint8]:
    assert reading.pixels is not None
    overlay = draw_overlay(reading.pixels, [masks[0]], [])
    small = Image.fromarray(overlay).convert("RGB")
    small.thumbnail((PANEL_PX, PANEL_PX))
    square = Image.new("RGB", (PANEL_PX, PANEL_PX))
    square.paste(small)
    return with_legend(np.asarray(square), [said])


def files_of(named: Sequence[Path]) -> list[Path]:
    """Return files, and all files below folders, sorted by name."""
    found: list[Path] = []
    for one in named:
        found += (
            sorted(file for file in one.rglob("*") if file.is_file()) if one.is_dir() else [one]
        )
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, print a table and one line of JSON, write the sheet."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality.moved_masks")
    parser.add_argument("files", type=Path, nargs="*", help="pictures, or folders of them")
    parser.add_argument("--data", type=Path, help="folder with manifest.csv: X-rays to write")
    parser.add_argument("--count", type=int, default=10, help="X-rays of each data set to write")
    parser.add_argument("--commits", nargs="*", default=[], help="each against its parent")
    parser.add_argument("--since", help="a commit, against the code of this folder")
    parser.add_argument("--model", type=Path, default=default_model_folder())
    parser.add_argument("--sheet", type=Path, help="PNG to write of the masks moved furthest")
    options = parser.parse_args(arguments)
    with ExitStack() as stack:
        files, truths = files_of(options.files), {}
        if options.data:
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="written_kinds_")))
            truths = write_kinds(chosen(read_rows(options.data, "val"), options.count), folder)
        comparison = Comparison(options.model, [*files, *truths])
        moved: list[Moved] = []
        for commit in options.commits:
            with code_of(f"{commit}~1") as before, code_of(commit) as after:
                moved += comparison.of(_subject(commit), before, after)
        if options.since:
            with code_of(options.since) as before:
                moved += comparison.of(f"since {options.since}", before, Path.cwd())
    tables = [[one.row() for one in moved if one.file not in truths], kind_rows(moved, truths)]
    for table in tables:
        if table:
            print_table(table)
    print(f"\n{processor_name()}, {len(files)} files, {len(truths)} written: "
          f"{len(moved)} readings differ, {comparison.unmoved} do not")  # fmt: skip
    if options.sheet and any(one.kind == MOVED for one in moved):
        options.sheet.write_bytes(encode_png(sheet_of(moved)))
    print(json.dumps(tables))
    return 0


def write_kinds(rows: Sequence[DataRow], folder: Path) -> dict[Path, Truth]:
    """Write X-rays as every kind of file; return each file with its human mask, stored alike."""
    truths = {}
    for row in rows:
        xray = load_xray(row)
        for name, kind in KINDS.items():
            file = folder / name / row.name
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(kind.write(kind.as_stored(xray.image)))
            truths[file] = Truth(kind.as_stored(xray.mask), CONVENTIONS.index(xray.convention))
    return truths


def kind_rows(moved: Sequence[Moved], truths: Mapping[Path, Truth]) -> list[dict[str, str]]:
    """Return a row for each change and kind of written file: mask quality before and after."""
    written = Counter(file.parent.name for file in truths)
    found: dict[tuple[str, str], list[Moved]] = defaultdict(list)
    for one in moved:
        if one.file in truths:
            found[one.change, one.file.parent.name].append(one)
    table = []
    for (change, kind), members in found.items():
        both = [one for one in members if all(one.masks)]
        row = {"change": change, "kind": kind, "files": written[kind]}
        outcomes = Counter(one.kind for one in members)
        row |= {outcome: outcomes[outcome] for outcome in OUTCOMES}
        for number, name in enumerate(("before", "after")):
            dices = [truths[one.file].dice(one.masks[number]) for one in both]
            row[f"mean Dice {name}"] = f"{np.mean(dices):.4f}" if dices else ""
            row[f"worst {name}"] = f"{min(dices):.3f}" if dices else ""
        table.append({key: str(value) for key, value in row.items()})
    return table


def _subject(commit: str) -> str:
    command = ["git", "log", "-1", "--format=%h %s", commit]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
