"""Settings of the training data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from annotated_types import Ge, Interval

from training.data.dataset import Structure
from training.errors import ConfigError
from training.settings import Count, CountOrNone, check_settings


@dataclass(frozen=True)
class DataConfig:
    """The training data.

    Attributes:
        root: Folder with ``manifest.csv``.
        also: Further data sets whose ``train`` rows are also trained on; they do not validate.
        further_masks: Folders of masks beside those of the data sets
            (`training.data.further_masks`).
        repeats: Uses of a source's rows in one epoch; 1 if not named.
        structure: Structure of the masks to train on: ``lungs``, ``infection`` or ``pneumothorax``.
        leave_out: Sources left out of training and validation, to measure the model on unseen
            hospitals.
        convention_mismatch: CSV files of ``python -m training conventions``; their X-rays,
            annotated in another convention than stated, are not trained on.
        folds: Number of folds of the patients of ``train``.
        without_fold: Fold that is not trained on, so that the model can be its held-out teacher; -1
            trains on all.
        phantoms: Number of synthetic chest phantoms that are mixed in, half per convention.
        cached_side: Longest side of X-rays in memory, in pixels.
        workers: Processes that make batches beside the training.
    """

    root: str = "data/cxr"
    also: tuple[str, ...] = ()
    further_masks: tuple[str, ...] = ()
    structure: Structure = "lungs"
    repeats: Mapping[str, Count] = field(default_factory=dict)
    leave_out: tuple[str, ...] = ()
    convention_mismatch: tuple[str, ...] = ()
    folds: Count = 1
    without_fold: Annotated[int, Ge(-1)] = -1
    phantoms: CountOrNone = 0
    cached_side: Annotated[int, Interval(ge=32, le=65_535)] = 288
    workers: Annotated[int, Interval(ge=0, le=1024)] = 1

    def __post_init__(self) -> None:
        """Refuse values out of range, and settings that contradict each other."""
        check_settings(self, "data")
        if self.phantoms and self.structure != "lungs":
            raise ConfigError(f"data.phantoms show lungs, not data.structure {self.structure}")
        if self.without_fold >= self.folds:
            raise ConfigError(
                f"data.without_fold is {self.without_fold}; it must be one of data.folds "
                f"{self.folds}, counted from 0, or -1"
            )
        if self.folds == 1 and self.without_fold == 0:
            raise ConfigError("data.without_fold 0 of 1 leaves nothing to train on")
