"""Is a model's confidence low where its mask is poor? By data set, and in both conventions.

Most X-rays are annotated in one convention only, so the mask in the other convention has no Dice.
The model's probabilities can replace it: along a border that it was not trained on, they are near
one half. Each X-ray is segmented in both conventions with the tight box of its annotated mask.
Printed for each data set and convention are the quantiles of the soft Dice confidence, and the
shares of masks with the warning `undecided_mask` and with any warning. Where people annotated that
convention, a second table follows: how well confidence and score rank masks by their Dice
(Spearman), and the share of poor masks (Dice below 0.85) and of others that come with a warning.

    python -m benchmarks.quality.undecided_masks --data DATA
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.quality.sloppy_boxes import POOR_DICE
from model_store.conventions import CONVENTIONS
from model_store.model_index import default_model_folder
from model_store.predictor import PredictionRequest, Predictor
from service.imaging.mask_checks import check_mask
from service.imaging.response_warnings import WarningCode
from training.data.dataset import load_xray, read_rows
from training.evaluation.metrics import dice
from training.evaluation.scores import prompt_boxes


@dataclass(frozen=True)
class Answer:
    """A model's answer and the service's warnings; ``dice`` is set if the mask is annotated."""

    source: str
    convention: str
    confidence: float
    score: float
    codes: frozenset[str]
    dice: float | None


def main(arguments: Sequence[str] | None = None) -> int:
    """Segment, print both tables and one line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality.undecided_masks")
    parser.add_argument("--data", type=Path, required=True, help="folder with manifest.csv")
    parser.add_argument("--model", type=Path, default=default_model_folder())
    parser.add_argument("--split", default="val", choices=["train", "val", "test"])
    parser.add_argument("--count", type=int, help="X-rays of each data set, default all")
    options = parser.parse_args(arguments)
    answers = ask(Predictor.load(options.model), options.data, options.split, options.count)
    tables = {"confidence": confidences(answers), "known masks": against_people(answers)}
    for table in tables.values():
        print_table(table)
    print(json.dumps(tables))
    return 0


def ask(predictor: Predictor, data: Path, split: str, count: int | None) -> list[Answer]:
    """Segment the first ``count`` X-rays of each data set in both conventions."""
    rows_by_source = defaultdict(list)
    for row in read_rows(data, split):
        rows_by_source[row.source].append(row)
    answers = []
    for source in sorted(rows_by_source):
        for row in islice(rows_by_source[source], count):
            xray = load_xray(row)
            box, _ = prompt_boxes(xray)
            for convention in CONVENTIONS:
                request = PredictionRequest(xray.image, (box,), convention)
                (mask,) = predictor.predict(request).masks
                is_known = convention == xray.convention
                answers.append(
                    Answer(
                        source,
                        convention,
                        mask.confidence,
                        mask.score,
                        frozenset(str(one.code) for one in check_mask(mask)),
                        dice(mask.mask, xray.mask) if is_known else None,
                    )
                )
    return answers


def confidences(answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """Return a row for each data set and convention."""
    groups = defaultdict(list)
    for answer in answers:
        groups[answer.source, answer.convention].append(answer)
    table = []
    for (source, convention), group in groups.items():
        values = [answer.confidence for answer in group]
        undecided = sum(_is_undecided(answer) for answer in group)
        table.append(
            {
                "source": source,
                "convention": convention,
                "n": len(group),
                "drawn by people": sum(one.dice is not None for one in group),
                "1st pc": round(float(np.quantile(values, 0.01)), 3),
                "5th pc": round(float(np.quantile(values, 0.05)), 3),
                "median": round(float(np.median(values)), 3),
                "undecided": f"{undecided / len(group):.1%}",
                "any warning": f"{sum(bool(one.codes) for one in group) / len(group):.1%}",
            }
        )
    return table


def against_people(answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """Return a row for each data set, from the masks that people annotated."""
    groups = defaultdict(list)
    for answer in answers:
        if answer.dice is not None:
            groups[answer.source].append((answer, answer.dice))
    table = []
    for source, group in groups.items():
        scores = [score for _, score in group]
        poor = [answer for answer, score in group if score < POOR_DICE]
        good = [answer for answer, score in group if score >= POOR_DICE]
        table.append(
            {
                "source": source,
                "n": len(group),
                "ranks, confidence": _ranks([one.confidence for one, _ in group], scores),
                "ranks, score": _ranks([one.score for one, _ in group], scores),
                "poor": len(poor),
                "of these undecided": sum(_is_undecided(one) for one in poor),
                "of these warned": sum(bool(one.codes) for one in poor),
                "good, undecided": sum(_is_undecided(one) for one in good),
                "good, warned": sum(bool(one.codes) for one in good),
            }
        )
    return table


def _is_undecided(answer: Answer) -> bool:
    return WarningCode.UNDECIDED_MASK in answer.codes


def _ranks(values: Sequence[float], scores: Sequence[float]) -> float | None:
    """Return Spearman's coefficient; None for fewer than three masks."""
    if len(scores) < 3:
        return None
    return round(float(stats.spearmanr(values, scores).statistic), 2)


def print_table(table: Sequence[dict[str, Any]]) -> None:
    """Print rows with the same columns as a Markdown table."""
    print(f"\n| {' | '.join(table[0])} |")
    print("|---" * len(table[0]) + "|")
    for row in table:
        print(f"| {' | '.join(str(value) for value in row.values())} |")


if __name__ == "__main__":
    sys.exit(main())
