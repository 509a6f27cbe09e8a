"""Find masks annotated in another convention than their data set states.

A data set states one convention for all its masks, but annotators do not always follow it. If a
mask of the visible lung field includes the heart, the better model scores worse. A model that knows
both conventions and was not trained on the X-ray predicts each. A mask that agrees clearly better
with the other convention was annotated in it. This is the idea of confident learning (Northcutt et
al., J Artif Intell Res 2021;70:1373): find labels that out-of-sample predictions contradict. The
result is a list for people to check.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from model_store.conventions import CONVENTIONS, Convention
from model_store.prediction import PredictionRequest
from model_store.predictor import Predictor
from training.data.dataset import DataRow, load_xray
from training.errors import DataError
from training.evaluation.metrics import dice
from training.evaluation.scores import prompt_boxes
from training.evaluation.statistics import Summary

MARGIN = 0.02
"""Least advantage in Dice of another convention. Two annotators of one convention differ by 0.029
in the median, but equally from both predictions of a model."""

MISMATCH = "convention_mismatch"
"""Column with ``yes`` for a mask annotated in another convention than stated."""

FORMER_MISMATCH = "drawn_otherwise"
"""Name of that column before version 0.6."""


@dataclass(frozen=True)
class Agreement:
    """The agreement of one mask with each convention.

    Attributes:
        name: The X-ray.
        source: Its data set.
        stated: The convention that the data set states.
        dice: Dice with the model's mask, by convention.
    """

    name: str
    source: str
    stated: Convention
    dice: Mapping[str, float]

    @property
    def nearest(self) -> str:
        """The convention with which the mask agrees best."""
        return max(self.dice, key=lambda convention: self.dice[convention])

    def is_otherwise(self, margin: float) -> bool:
        """Whether another convention agrees better by at least ``margin`` of Dice (above 0)."""
        return self.dice[self.nearest] - self.dice[self.stated] >= margin


def agreements(predictor: Predictor, rows: Sequence[DataRow]) -> Iterator[Agreement]:
    """Compare each mask with the model's in every convention it knows, by the mask's own box.

    Args:
        predictor: A model that was not trained on these X-rays; one with a cache of embeddings
            encodes each of them once.
        rows: X-rays of conventions that the model knows.
    """
    for row in rows:
        xray = load_xray(row)
        box = prompt_boxes(xray)[0]
        agreement: dict[str, float] = {}
        known = predictor.info.manifest.conventions
        for convention in (name for name in CONVENTIONS if name in known):
            request = PredictionRequest(xray.image, (box,), convention)
            agreement[convention] = dice(predictor.predict(request).masks[0].mask, xray.mask)
        yield Agreement(row.name, row.source, row.convention, agreement)


def format_agreements(found: Sequence[Agreement], margin: float) -> str:
    """Return the table per data set, with and without mismatched masks, and their list."""
    lines = [
        f"{'':<14}{'as stated':>25}{'annotated':>18}{'without these':>20}",
        f"{'data set':<14}{'n':>5}{'Dice':>10}{'5th pc':>10}{'otherwise':>18}"
        f"{'Dice':>10}{'5th pc':>10}",
    ]
    for source in sorted({one.source for one in found}):
        mine = [one for one in found if one.source == source]
        kept = [one for one in mine if not one.is_otherwise(margin)]
        lines.append(
            f"{source:<14}{len(mine):>5}{_spread(mine)}{len(mine) - len(kept):>18}{_spread(kept)}"
        )
    others = [one for one in found if one.is_otherwise(margin)]
    lines += [
        f"{one.source} {one.name}: stated {one.stated} {one.dice[one.stated]:.3f}, "
        f"{one.nearest} {one.dice[one.nearest]:.3f}"
        for one in sorted(others, key=lambda one: (one.source, one.name))
    ]
    return "\n".join(lines)


def _spread(found: Sequence[Agreement]) -> str:
    if not found:
        return f"{'-':>10}{'-':>10}"
    summary = Summary.of([one.dice[one.stated] for one in found])
    return f"{summary.mean:>10.4f}{summary.percentile_5:>10.4f}"


def write_agreements(path: Path, found: Sequence[Agreement], margin: float) -> None:
    """Write one row per X-ray: name, source, both conventions, Dice of each, mismatch."""
    names = sorted({name for one in found for name in one.dice})
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        columns = [f"dice_{name}" for name in names]
        writer.writerow(["name", "source", "stated", "nearest", *columns, MISMATCH])
        for one in found:
            scores = [f"{one.dice[name]:.4f}" for name in names]
            otherwise = "yes" if one.is_otherwise(margin) else "no"
            writer.writerow([one.name, one.source, one.stated, one.nearest, *scores, otherwise])


def mismatched_names(paths: Iterable[Path]) -> frozenset[str]:
    """Return the X-rays with a mismatch in files of `write_agreements`.

    Raises:
        DataError: A file cannot be read or lacks a column.
    """
    names: set[str] = set()
    for path in paths:
        try:
            with path.open(newline="", encoding="utf-8") as file:
                names.update(row["name"] for row in csv.DictReader(file) if _is_listed(row))
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}") from error
        except (KeyError, UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{path} is not a list of `training conventions`: {error}") from error
    return frozenset(names)


def _is_listed(row: Mapping[str, str]) -> bool:
    return (row[FORMER_MISMATCH] if FORMER_MISMATCH in row else row[MISMATCH]) == "yes"
