"""The masks that a caller accepts, looks at or refuses by the severity of warnings.

The pictures are X-rays of a split, unchanged and corrupted (`corruptions`), portable X-rays, and
pictures of other things. A row counts pictures by the gravest severity of their warnings. A mask is
poor below a Dice of 0.7 with the human mask; a poor mask without a warning is silent.

    python -m benchmarks.quality.gating --data DATA [--portable FOLDER] [--other FOLDER ...]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.processor import processor_name
from benchmarks.quality.corruptions import CORRUPTIONS, USABLE, made_up_pictures
from benchmarks.quality.judged_pictures import SEVERITIES, Judged, Record
from model_store.conventions import CONVENTIONS, DEFAULT_CONVENTION, Convention
from model_store.grey_levels import grey_histogram
from model_store.model_index import default_model_folder
from model_store.pictures.picture_reading import read_picture
from model_store.predictor import MaskPrediction, PredictionRequest, Predictor
from service.imaging.answer_checks import check_answer
from service.imaging.mask_checks import check_image
from service.imaging.warning_advice import advice_on
from training.data.dataset import DataRow, load_xray, read_rows
from training.evaluation.metrics import dice
from training.evaluation.scores import prompt_boxes

MOST_PIXELS = 200_000_000
OTHER = "other pictures"
NO_CHEST_CODES = ("not_a_frontal_chest", "constant_image", "implausibly_small_mask")
"""Codes for pictures that show no chest."""


Answer = tuple[MaskPrediction, tuple[str, ...]]
"""A mask, and the quality head's labels of its picture."""


def judged(
    group: str,
    kind: str,
    pixels: NDArray[Any],
    answer: Answer,
    truth: NDArray[np.bool_] | None = None,
    *,
    is_whole_image: bool = True,
    right_codes: tuple[str, ...] = (),
) -> Judged:
    """Return the service's warnings about a mask, and its quality."""
    mask, seen = answer
    remarks = check_answer([mask], pixels, seen, is_whole_image=is_whole_image)
    found = [*check_image(grey_histogram(pixels)), *remarks.every]
    overlap = None if truth is None else dice(mask.mask, truth)
    codes = tuple(str(one.code) for one in found)
    return Judged(group, kind, codes, mask.confidence, mask.score, overlap, right_codes)


class PictureJudge:
    """Segments and judges pictures."""

    def __init__(self, predictor: Predictor, record: Record) -> None:
        self._predictor = predictor
        self._record = record

    def as_they_are(self, rows: Sequence[DataRow]) -> Iterator[Judged]:
        """Yield X-rays without a box and with a tight one, by their own convention."""
        for row in rows:
            for kind in ("whole image", "tight box"):
                named = f"good X-rays/{row.name}/{kind}"
                yield self._record.judged(named, partial(self._as_it_is, row, kind))

    def corrupted(self, rows: Sequence[DataRow]) -> Iterator[Judged]:
        """Yield X-rays corrupted in every way, the whole image as the box."""
        for row in rows:
            for way in CORRUPTIONS:
                named = f"corrupted/{row.name}/{way}"
                yield self._record.judged(named, partial(self._corrupted, row, way))

    def files(self, group: str, kind: str, paths: Sequence[Path]) -> Iterator[Judged]:
        """Return pictures without a known mask, in both conventions."""
        for path in paths:
            for convention in CONVENTIONS:
                ask = partial(self._file, group, kind, path, convention)
                yield self._record.judged(f"{group}/{path.name}/{convention}", ask)

    def made_up(self) -> Iterator[Judged]:
        """Return synthetic pictures."""
        for name, pixels in made_up_pictures().items():
            ask = partial(self._unknown, OTHER, "made up", pixels, DEFAULT_CONVENTION)
            yield self._record.judged(f"{OTHER}/{name}", ask)

    def _as_it_is(self, row: DataRow, kind: str) -> Judged:
        xray = load_xray(row)
        boxes = (prompt_boxes(xray)[0],) if kind == "tight box" else ()
        answer = self._ask(PredictionRequest(xray.image, boxes, xray.convention))
        return judged(
            "good X-rays", f"{xray.source}, {kind}", xray.image, answer, xray.mask,
            is_whole_image=not boxes,
        )  # fmt: skip

    def _corrupted(self, row: DataRow, way: str) -> Judged:
        xray, corruption = load_xray(row), CORRUPTIONS[way]
        pixels, mask = corruption.change(xray.image, xray.mask)
        pixels = np.ascontiguousarray(pixels)
        group = "usable" if corruption.group == USABLE else "corrupted"
        return judged(
            group, f"{corruption.group}: {way}", pixels, self._whole(pixels, xray.convention), mask,
            right_codes=corruption.right_codes,
        )  # fmt: skip

    def _file(self, group: str, kind: str, path: Path, convention: Convention) -> Judged:
        pixels = read_picture(path.read_bytes(), max_pixels=MOST_PIXELS).pixels
        return self._unknown(group, f"{kind}, {convention}", pixels, convention)

    def _unknown(
        self, group: str, kind: str, pixels: NDArray[Any], convention: Convention
    ) -> Judged:
        answer = self._whole(pixels, convention)
        right = NO_CHEST_CODES if group == OTHER else ()
        return judged(group, kind, pixels, answer, right_codes=right)

    def _whole(self, pixels: NDArray[Any], convention: Convention) -> Answer:
        return self._ask(PredictionRequest(pixels, (), convention))

    def _ask(self, request: PredictionRequest) -> Answer:
        prediction = self._predictor.predict(request)
        return prediction.masks[0], self._predictor.info.manifest.kind_of(prediction.quality)


def rows_of(found: Sequence[Judged]) -> list[dict[str, Any]]:
    """Return one row for each kind of picture, and one for each group."""
    kinds, groups = defaultdict(list), defaultdict(list)
    for one in found:
        kinds[one.group, one.kind].append(one)
        groups[one.group, "all"].append(one)
    return [
        _row(group, kind, members)
        for (group, kind), members in sorted([*kinds.items(), *groups.items()], key=_by_group)
    ]


def _by_group(item: tuple[tuple[str, str], list[Judged]]) -> tuple[str, bool, str]:
    (group, kind), _ = item
    return group, kind == "all", kind


def _row(group: str, kind: str, members: Sequence[Judged]) -> dict[str, Any]:
    severities = Counter(one.severity for one in members)
    known = [one.dice for one in members if one.dice is not None]
    poor = [one for one in members if one.is_poor]
    codes = Counter(code for one in members for code in one.codes).most_common(3)
    with_code = [one for one in members if one.right_codes]
    return {
        "group": group,
        "kind": kind,
        "n": len(members),
        "Dice": round(float(np.median(known)), 3) if known else "",
        "confidence": round(float(np.median([one.confidence for one in members])), 3),
        "score": round(float(np.median([one.score for one in members])), 3),
        "passes": severities["none"] + severities["info"],
        "look": severities["look"],
        "refuse": severities["refuse"],
        "named right": sum(one.is_named_right for one in with_code) if with_code else "",
        "of": len(with_code) if with_code else "",
        "poor": len(poor) if known else "",
        "poor, silent": sum(one.severity in SEVERITIES[:2] for one in poor) if known else "",
        "most frequent codes": ", ".join(f"{code} {count}" for code, count in codes),
    }


def code_rows(found: Sequence[Judged]) -> list[dict[str, Any]]:
    """Return one row for each code: its frequency, and the quality of the masks."""
    table = []
    for code in sorted({code for one in found for code in one.codes}):
        having = [one for one in found if code in one.codes]
        known = [one for one in having if one.dice is not None]
        table.append(
            {
                "code": code,
                "severity": str(advice_on(code).severity),
                "good X-rays": sum(one.group == "good X-rays" for one in having),
                "usable": sum(one.group == "usable" for one in having),
                "corrupted": sum(one.group == "corrupted" for one in having),
                "of these poor": sum(one.is_poor for one in known),
                "portable": sum(one.group == "portable" for one in having),
                "other pictures": sum(one.group == OTHER for one in having),
            }
        )
    return table


def print_table(table: Sequence[dict[str, Any]]) -> None:
    """Print rows of the same columns in Markdown."""
    print(f"\n| {' | '.join(table[0])} |")
    print("|---" * len(table[0]) + "|")
    for row in table:
        print(f"| {' | '.join(str(value) for value in row.values())} |")


def chosen(rows: Sequence[DataRow], count: int) -> list[DataRow]:
    """Return the first `count` X-rays of each data set."""
    met: Counter[str] = Counter()
    kept = []
    for row in rows:
        met[row.source] += 1
        if met[row.source] <= count:
            kept.append(row)
    return kept


def main(arguments: Sequence[str] | None = None) -> int:
    """Segment, print both tables and one line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality.gating")
    parser.add_argument("--data", type=Path, required=True, help="folder with manifest.csv")
    parser.add_argument("--model", type=Path, default=default_model_folder())
    parser.add_argument("--split", default="val", choices=["train", "val", "test"])
    parser.add_argument("--count", type=int, default=10, help="X-rays of each data set to corrupt")
    parser.add_argument("--portable", type=Path, help="folder of portable X-rays")
    parser.add_argument("--portable-count", type=int, default=40)
    parser.add_argument("--other", type=Path, nargs="*", default=[], help="folders of no chests")
    parser.add_argument(
        "--record", type=Path, help="file to which each picture is added; a run goes on from it"
    )
    options = parser.parse_args(arguments)
    judge = PictureJudge(Predictor.load(options.model, "cpu"), Record(options.record))
    rows = read_rows(options.data, options.split)
    found = [*judge.as_they_are(rows), *judge.corrupted(chosen(rows, options.count))]
    if options.portable:
        paths = sorted(options.portable.glob("*.*"))[: options.portable_count]
        found += judge.files("portable", options.portable.parent.name, paths)
    for folder in options.other:
        found += judge.files(OTHER, folder.name, sorted(folder.glob("*.*")))
    found += judge.made_up()
    print(f"{processor_name()}, {options.split}")
    tables = {"pictures": rows_of(found), "codes": code_rows(found)}
    for table in tables.values():
        print_table(table)
    print(json.dumps(tables))
    return 0


if __name__ == "__main__":
    sys.exit(main())
