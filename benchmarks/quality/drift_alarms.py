"""Alarms of the drift watch: never for ordinary hospitals, soon for X-rays that differ.

Each data set stands for a hospital, segmented in `lung_field` and `whole_lung`, whole image. Then
come X-rays that differ: corrupted and portable ones. A row has, for each number, the share of
X-rays outside the range of training, and the share of answers with warnings; above 0.2 is an alarm.

Then weeks of 100 X-rays are compared with 300 of the same data set: how often the distance exceeds
0.25 by chance. Last come the distances between data sets, as if a hospital changed.

    python -m benchmarks.quality.drift_alarms --data DATA [--portable FOLDER]
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.processor import processor_name
from benchmarks.quality.corruptions import CORRUPTIONS
from benchmarks.quality.gating import judged
from benchmarks.quality.portable_xrays import unlabelled
from model_store.conventions import CONVENTIONS, Convention
from model_store.geometry import windowed_mean
from model_store.grey_levels import grey_histogram
from model_store.model_index import default_model_folder
from model_store.predictor import PredictionRequest, Predictor
from service.drift_comparison import MOST_OUTSIDE, MOST_SHIFT, shift_of
from service.trained_range import QUANTITIES, WARNED, TrainedRange, trained_ranges
from training.data.dataset import load_xray, read_rows

CORRUPTED_WAYS = (
    "gamma 2", "black border", "mirrored", "a third of the size", "a third of the contrast",
    "inverted", "upper half", "middle 60 %", "turned by 90 degrees", "two side by side",
    "noise of 50 %",
)  # fmt: skip
WEEK, BEFORE, DRAWS = 100, 300, 1000
Numbers = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Group:
    """X-rays that belong together.

    Attributes:
        name: data set or change.
        convention: convention of their masks.
        numbers: numbers of each X-ray, by name.
        is_healthy: whether no alarm is expected.
    """

    name: str
    convention: Convention
    numbers: Numbers
    is_healthy: bool


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables and one line of JSON; return 1 on an alarm for an ordinary hospital."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality.drift_alarms")
    parser.add_argument("--data", type=Path, required=True, help="folder with manifest.csv")
    parser.add_argument("--portable", type=Path, help="portable X-rays: images/ and manifest.csv")
    parser.add_argument("--model", type=Path, default=default_model_folder())
    parser.add_argument("--spoiled", type=int, default=40, help="X-rays corrupted in each way")
    flags = parser.parse_args(arguments)
    predictor = Predictor.load(flags.model, "cpu")
    ranges = trained_ranges(predictor.info.manifest.training_distributions)
    print(processor_name())
    print(f"| X-rays | convention | n | {' | '.join((*QUANTITIES, WARNED))} | alarm |")
    print(f"|---|---|---|{'---|' * (len(QUANTITIES) + 2)}")
    healthy: dict[str, Numbers] = {}
    table: list[dict[str, object]] = []
    false_alarms = 0
    for group in _groups(predictor, flags):
        outside = _outside(group.numbers, ranges)
        alarms = [one for one, share in outside.items() if share > MOST_OUTSIDE]
        count = len(group.numbers[WARNED])
        cells = [*(f"{share:.3f}" for share in outside.values()), ", ".join(alarms) or "-"]
        print(f"| {group.name} | {group.convention} | {count} | {' | '.join(cells)} |")
        line = {"xrays": group.name, "convention": group.convention, "n": count, "alarms": alarms}
        table.append({**line, **outside})
        if group.is_healthy:
            healthy[f"{group.name}, {group.convention}"] = group.numbers
            false_alarms += len(alarms)
    weeks = {name: _chance(numbers, ranges) for name, numbers in healthy.items()}
    for name, (largest, share) in weeks.items():
        print(f"{name}: weeks of {WEEK} move by at most {largest:.3f}; {share:.3f} alarm")
    moved = list(_moved(healthy, ranges))
    for move in moved:
        print(f"from {move['before']} to {move['now']}: {move['by']:.2f} ({move['number']})")
    print(json.dumps({"outside": table, "weeks": weeks, "moved": moved}))
    false_alarms += sum(share > 0 for _, share in weeks.values())
    return 1 if false_alarms else 0


def _groups(predictor: Predictor, flags: argparse.Namespace) -> Iterator[Group]:
    """Yield data sets, then X-rays that differ."""
    rows = [row for split in ("test", "val") for row in read_rows(flags.data, split)]
    sources: dict[str, list[NDArray[np.uint8]]] = {}
    for row in rows:
        sources.setdefault(row.source, []).append(load_xray(row).image)
    for convention in CONVENTIONS:
        for name, images in sources.items():
            numbers = _numbers(predictor, images, convention)
            yield Group(name, convention, numbers, is_healthy=True)
    chosen = [load_xray(row) for row in rows[:: max(1, len(rows) // flags.spoiled)]]
    for way in CORRUPTED_WAYS:
        corrupted = [CORRUPTIONS[way].change(one.image, one.mask)[0] for one in chosen]
        arrays = [np.ascontiguousarray(one) for one in corrupted]
        numbers = _numbers(predictor, arrays, "lung_field")
        yield Group(way, "lung_field", numbers, is_healthy=False)
    if flags.portable is not None:
        portable = [image for _, image in unlabelled(flags.portable)]
        for convention in CONVENTIONS:
            numbers = _numbers(predictor, portable, convention)
            yield Group("portable", convention, numbers, is_healthy=False)


def _numbers(
    predictor: Predictor, images: Sequence[NDArray[np.uint8]], convention: Convention
) -> Numbers:
    found: dict[str, list[float]] = {name: [] for name in (*QUANTITIES, WARNED)}
    for image in images:
        answer = predictor.predict(PredictionRequest(image, convention=convention))
        (mask,) = answer.masks
        kinds = predictor.info.manifest.kind_of(answer.quality)
        severity = judged("", "", image, (mask, kinds)).severity
        found["grey_level"].append(windowed_mean(grey_histogram(image)))
        found["pixels"].append(image.size)
        found["confidence"].append(mask.confidence)
        found["area_ratio"].append(float(mask.mask.mean()))
        found[WARNED].append(float(severity in ("look", "refuse")))
    return found


def _outside(numbers: Numbers, ranges: Mapping[str, TrainedRange]) -> dict[str, float]:
    shares = {
        name: float(np.mean([known.is_outside(one) for one in numbers[name]]))
        for name, known in ranges.items()
    }
    return shares | {WARNED: float(np.mean(numbers[WARNED]))}


def _chance(numbers: Numbers, ranges: Mapping[str, TrainedRange]) -> tuple[float, float]:
    """Return the largest distance of a week by chance, and the share of weeks with an alarm."""
    draw = random.Random(1)
    count, moves = len(numbers[WARNED]), []
    for _ in range(DRAWS):
        week, before = (draw.choices(range(count), k=k) for k in (WEEK, BEFORE))
        moves.append(max(_moves(_chosen(numbers, week), _chosen(numbers, before), ranges).values()))
    return max(moves), sum(move > MOST_SHIFT for move in moves) / DRAWS


def _moved(
    healthy: Mapping[str, Numbers], ranges: Mapping[str, TrainedRange]
) -> Iterator[dict[str, str | float]]:
    """Yield the distances between data sets of the same convention."""
    large = {name: one for name, one in healthy.items() if len(one[WARNED]) >= WEEK}
    for before, now in itertools.combinations(large, 2):
        moves = _moves(large[now], large[before], ranges)
        number = max(moves, key=moves.__getitem__)
        yield {"before": before, "now": now, "by": moves[number], "number": number}


def _moves(now: Numbers, before: Numbers, ranges: Mapping[str, TrainedRange]) -> dict[str, float]:
    found = {name: shift_of(now[name], before[name], ranges.get(name)) for name in now}
    return {name: move for name, move in found.items() if move is not None}


def _chosen(numbers: Numbers, indices: Sequence[int]) -> Numbers:
    return {name: [values[index] for index in indices] for name, values in numbers.items()}


if __name__ == "__main__":
    sys.exit(main())
