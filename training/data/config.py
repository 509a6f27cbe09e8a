"""Settings of what is trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from training.data.dataset import STRUCTURES, Structure
from training.errors import ConfigError


@dataclass(frozen=True)
class DataConfig:
    """What is trained on.

    Attributes:
        root: Folder with ``manifest.csv``.
        repeats: How often the rows of a source come in one epoch; 1 where not named.
        structure: What the masks to train on show: ``lungs``, ``infection`` or ``pneumothorax``.
        leave_out: Sources that neither train nor choose, to learn how the model does on
            hospitals that it has never seen.
        drawn_otherwise: CSV files of ``python -m training conventions``; the X-rays that they list
            as drawn in another convention than stated do not train.
        folds: Parts into which the patients of ``train`` fall; 1 leaves them together.
        without_fold: Part that does not train, so that the model can teach it without having seen
            what people drew there; -1 trains on all.
        phantoms: Number of drawn chest phantoms that are mixed in, half per convention.
        cached_side: Longest side of the X-rays held in memory, in pixels.
        workers: Processes that make batches beside the training.
    """

    root: str = "data/cxr"
    structure: Structure = "lungs"
    repeats: Mapping[str, int] = field(default_factory=dict)
    leave_out: tuple[str, ...] = ()
    drawn_otherwise: tuple[str, ...] = ()
    folds: int = 1
    without_fold: int = -1
    phantoms: int = 0
    cached_side: int = 288
    workers: int = 1

    def __post_init__(self) -> None:
        """Refuse an unknown structure, repeats below 1 and negative counts."""
        if self.structure not in STRUCTURES:
            raise ConfigError(
                f"data.structure is {self.structure!r}; it must be one of {', '.join(STRUCTURES)}"
            )
        if self.phantoms and self.structure != "lungs":
            raise ConfigError(f"data.phantoms show lungs, not data.structure {self.structure}")
        if any(not isinstance(n, int) or n < 1 for n in self.repeats.values()):
            raise ConfigError(f"data.repeats {dict(self.repeats)} must be whole numbers from 1")
        if self.folds < 1 or not -1 <= self.without_fold < self.folds:
            raise ConfigError(
                f"data.folds {self.folds} must be at least 1, data.without_fold "
                f"{self.without_fold} one of them, counted from 0, or -1"
            )
        if self.folds == 1 and self.without_fold == 0:
            raise ConfigError("data.without_fold 0 of 1 leaves nothing to train on")
        if self.phantoms < 0 or self.workers < 0 or self.cached_side < 32:
            raise ConfigError(
                f"data.phantoms {self.phantoms} and data.workers {self.workers} must be at least "
                f"0, data.cached_side {self.cached_side} at least 32"
            )
