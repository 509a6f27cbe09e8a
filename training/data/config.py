"""Settings of what is trained on."""

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
    """What is trained on.

    Attributes:
        root: Folder with ``manifest.csv``.
        also: Further data sets whose ``train`` rows train too; they choose nothing.
        further_masks: Folders of masks beside those of the data sets
            (`training.data.further_masks`).
        repeats: How often the rows of a source come in one epoch; 1 where not named.
        structure: What the masks to train on show: ``lungs``, ``infection`` or ``pneumothorax``.
        leave_out: Sources that neither train nor choose, to learn how the model does on
            hospitals that it has never seen.
        convention_mismatch: CSV files of ``python -m training conventions``; the X-rays that they
            list as annotated in another convention than stated do not train.
        folds: Parts into which the patients of ``train`` fall; 1 leaves them together.
        without_fold: Part that does not train, so that the model can teach it without having seen
            what people annotated there; -1 trains on all.
        phantoms: Number of synthetic chest phantoms that are mixed in, half per convention.
        cached_side: Longest side of the X-rays held in memory, in pixels.
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
