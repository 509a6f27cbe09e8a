"""The effect of `islands=drop`: how often and how much it removes, and whether human masks have it.

The box is the whole image. For annotated X-rays it prints Dice before and after, and the share of
removed pixels inside human masks. For X-rays without masks it prints, by view and convention, how
many masks lose pieces, and how many pixels. ``--pictures`` writes the masks that lose most as PNG
files: kept outlines green, removed pieces red, the human outline yellow. These show X-rays of the
data, so keep them only where the data may be kept.

    python -m benchmarks.quality.island_removal --data DATA --unlabelled DIR --hearts DIR
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.processor import processor_name
from model_store.conventions import CONVENTIONS, Convention
from model_store.embedding_cache import EmbeddingCache
from model_store.geometry import window_to_uint8
from model_store.model_index import default_model_folder
from model_store.predictor import PredictionRequest, Predictor
from model_store.structures import HEART, LUNGS, Structure
from service.imaging.islands import without_islands
from training.data.dataset import load_xray, read_rows
from training.data.row_choice import limited
from training.data.unlabelled import read_unlabelled
from training.data.xray_files import read_mask_pixels, read_xray
from training.evaluation.metrics import dice

MOST_PICTURES = 10
_CACHE_BYTES = 4 << 20
_GREEN, _RED, _YELLOW = (60, 220, 60), (230, 40, 40), (240, 220, 40)
_PICTURE_HEIGHT_PX = 480

Grey = NDArray[np.uint8]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Asked:
    """One X-ray and one requested mask.

    Attributes:
        group: Row of the table: data set and split, or view.
        name: The X-ray.
        image: Windowed grey values, (H, W).
        convention: Convention of the lungs.
        structure: What the mask shows.
        truth: Human mask, (H, W); None without one.
    """

    group: str
    name: str
    image: Grey
    convention: Convention
    structure: Structure = LUNGS
    truth: Mask | None = None


@dataclass(frozen=True)
class Removal:
    """The islands of one mask.

    Attributes:
        asked: The X-ray and mask.
        mask: The model's mask.
        kept: The same without its islands.
        before: Dice of ``mask``; None without a human mask.
        after: Dice of ``kept``.
    """

    asked: Asked
    mask: Mask
    kept: Mask
    before: float | None
    after: float | None

    @property
    def removed_px(self) -> int:
        """Return the number of removed pixels."""
        return int(self.mask.sum()) - int(self.kept.sum())

    @property
    def share(self) -> float:
        """Return the removed share of the mask."""
        return self.removed_px / max(int(self.mask.sum()), 1)

    @property
    def right_px(self) -> int:
        """Return the removed pixels inside the human mask; 0 without one."""
        if self.asked.truth is None:
            return 0
        return int((self.mask & ~self.kept & self.asked.truth).sum())


@dataclass(frozen=True)
class Line:
    """One group of masks; shares are of the masks that lose pieces."""

    group: str
    mask: str
    n: int
    lose: int
    removed_px: int
    largest_share: float
    right_share: float | None
    before: float | None
    after: float | None
    better: int
    worse: int


def annotated(
    data: Path, split: str, hearts: Path | None, structures: Sequence[str], limit: int
) -> Iterator[Asked]:
    """Yield X-rays of a split, each in its own convention, and annotated hearts."""
    for row in limited(read_rows(data, split), limit):
        xray = load_xray(row)
        group = f"{xray.source}, {split}"
        yield Asked(group, row.name, xray.image, xray.convention, LUNGS, xray.mask)
        path = None if hearts is None else hearts / HEART / f"{row.name}.png"
        if HEART in structures and path is not None and path.is_file():
            true = read_mask_pixels(path)
            yield Asked(group, row.name, xray.image, xray.convention, HEART, true)


def not_annotated(folder: Path, structures: Sequence[str], limit: int) -> Iterator[Asked]:
    """Yield X-rays without masks, in both conventions, and their hearts."""
    for xray in read_unlabelled(folder, ("projection",))[: limit or None]:
        image = window_to_uint8(read_xray(xray.path).upright)
        for convention in CONVENTIONS:
            yield Asked(xray.projection, xray.name, image, convention)
        if HEART in structures:
            yield Asked(xray.projection, xray.name, image, CONVENTIONS[0], HEART)


def removal(predictor: Predictor, asked: Asked) -> Removal:
    """Segment, and remove the islands of the mask."""
    request = PredictionRequest(asked.image, convention=asked.convention, structure=asked.structure)
    mask = predictor.predict(request).masks[0].mask
    kept, _ = without_islands(mask)
    if asked.truth is None:
        return Removal(asked, mask, kept, None, None)
    return Removal(asked, mask, kept, dice(mask, asked.truth), dice(kept, asked.truth))


def lines_of(found: Sequence[Removal]) -> list[Line]:
    """Return a line for each group and kind of mask, in order of appearance."""
    groups: dict[tuple[str, str], list[Removal]] = {}
    for one in found:
        shown = one.asked.convention if one.asked.structure == LUNGS else one.asked.structure
        groups.setdefault((one.asked.group, shown), []).append(one)
    return [_line(group, mask, members) for (group, mask), members in groups.items()]


def _line(group: str, mask: str, members: Sequence[Removal]) -> Line:
    losing = [one for one in members if one.removed_px]
    removed = sum(one.removed_px for one in losing)
    scored = [(one.before, one.after) for one in members if one.before is not None]
    pairs = [(before, after) for before, after in scored if after is not None]
    right = sum(one.right_px for one in losing)
    return Line(
        group, mask, len(members), len(losing), removed,
        max((one.share for one in losing), default=0.0),
        right / removed if removed and pairs else None,
        float(np.mean([before for before, _ in pairs])) if pairs else None,
        float(np.mean([after for _, after in pairs])) if pairs else None,
        sum(after > before for before, after in pairs),
        sum(after < before for before, after in pairs),
    )  # fmt: skip


def picture(one: Removal) -> NDArray[np.uint8]:
    """Return the X-ray with outlines of kept, removed and human parts, (H, W, 3)."""
    height, width = one.mask.shape
    scale = _PICTURE_HEIGHT_PX / height
    size = (max(round(width * scale), 1), _PICTURE_HEIGHT_PX)
    grey = cv2.resize(one.asked.image, size, interpolation=cv2.INTER_AREA)
    canvas = np.repeat(np.asarray(grey, np.uint8)[:, :, None], 3, axis=2)
    if one.asked.truth is not None:
        _outline(canvas, one.asked.truth, _YELLOW)
    _outline(canvas, one.kept, _GREEN)
    _outline(canvas, one.mask & ~one.kept, _RED)
    return canvas


def _outline(canvas: NDArray[np.uint8], mask: Mask, colour: tuple[int, int, int]) -> None:
    size = (canvas.shape[1], canvas.shape[0])
    scaled = cv2.resize(mask.astype(np.uint8) * 255, size, interpolation=cv2.INTER_LINEAR)
    on = np.asarray(scaled > 127, np.uint8)
    lines, _ = cv2.findContours(on, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(canvas, lines, -1, colour, 1)


def write_worst(found: Sequence[Removal], folder: Path) -> list[str]:
    """Write the masks that lose the largest shares; return a line about each."""
    folder.mkdir(parents=True, exist_ok=True)
    losing = sorted((one for one in found if one.removed_px), key=lambda one: -one.share)
    said = []
    for place, one in enumerate(losing[:MOST_PICTURES], start=1):
        shown = one.asked.convention if one.asked.structure == LUNGS else one.asked.structure
        path = folder / f"{place:02d}_{one.asked.name}_{shown}.png"
        cv2.imwrite(str(path), picture(one)[:, :, ::-1])
        scores = "" if one.before is None else f", Dice {one.before:.4f} to {one.after:.4f}"
        said.append(
            f"{path.name}: {one.asked.group}, {one.removed_px} px, {one.share:.2%} of the mask, "
            f"{one.right_px} px of it inside the human mask{scores}"
        )
    return said


def main(arguments: Sequence[str] | None = None) -> int:
    """Segment, print the table and one line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality.island_removal")
    parser.add_argument("--data", type=Path, help="folder with manifest.csv")
    parser.add_argument("--split", nargs="*", default=["val"], choices=["train", "val", "test"])
    parser.add_argument("--unlabelled", type=Path, help="X-rays with name and projection")
    parser.add_argument("--hearts", type=Path, help="folder with heart/NAME.png")
    parser.add_argument("--model", type=Path, default=default_model_folder())
    parser.add_argument("--pictures", type=Path, help="folder for pictures of the worst")
    parser.add_argument("--limit", type=int, default=0, help="X-rays of each source; 0 takes all")
    options = parser.parse_args(arguments)
    if options.data is None and options.unlabelled is None:
        parser.error("give --data, --unlabelled or both")
    # The masks of one X-ray share its embedding.
    predictor = Predictor.load(options.model, "cpu", EmbeddingCache(_CACHE_BYTES))
    structures, limit = tuple(predictor.info.manifest.structures), options.limit
    asked: list[Iterator[Asked]] = []
    if options.data is not None:
        asked = [
            annotated(options.data, split, options.hearts, structures, limit)
            for split in options.split
        ]
    if options.unlabelled is not None:
        asked.append(not_annotated(options.unlabelled, structures, limit))
    found = [removal(predictor, one) for part in asked for one in part]
    lines = lines_of(found)
    info = predictor.info
    print(f"{processor_name()}, {os.cpu_count()} cores; {info.name}/{info.version}, whole image")
    print(markdown(lines))
    if options.pictures is not None:
        print("\n".join(write_worst(found, options.pictures)))
    print(json.dumps([vars(one) for one in lines]))
    return 0


def markdown(lines: Sequence[Line]) -> str:
    """Return the table."""
    rows = [
        "| X-rays | mask | n | lose pieces | pixels removed | largest share of a mask | of these "
        "pixels inside the human mask | Dice before | after | better, worse |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for one in lines:
        is_scored = one.before is not None
        cells = [
            one.group, f"`{one.mask}`", f"{one.n}", f"{one.lose}", f"{one.removed_px:,}",
            f"{one.largest_share:.2%}",
            "" if one.right_share is None else f"{one.right_share:.0%}",
            f"{one.before:.5f}" if is_scored else "", f"{one.after:.5f}" if is_scored else "",
            f"{one.better}, {one.worse}" if is_scored else "",
        ]  # fmt: skip
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


if __name__ == "__main__":
    sys.exit(main())
