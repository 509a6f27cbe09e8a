"""Settings of stage 1: the method of adaptation, and the adapters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Interval

from training.adapters.adapted_linear import TARGETS
from training.errors import ConfigError
from training.settings import Count, CountOrNone, NotNegative, Positive, check_settings

MethodName = Literal["adalora", "lora", "decoder_only", "full"]

Decay = Annotated[float, Interval(gt=0, lt=1)]
"""A decay: the share of a running mean that stays at each step."""


@dataclass(frozen=True)
class AdaptationConfig:
    """What stage 1 trains.

    Attributes:
        method: ``adalora``, adapters whose budget of ranks is distributed by importance; ``lora``,
            adapters of a fixed rank; ``decoder_only``, no adapters; ``full``, every weight. Every
            method trains mask decoder and prompt encoder.
    """

    method: MethodName = "adalora"

    def __post_init__(self) -> None:
        """Refuse an unknown method."""
        check_settings(self, "adaptation")


@dataclass(frozen=True)
class LoraConfig:
    """Adapters of a fixed rank (Hu et al., ICLR 2022).

    Attributes:
        rank: Rank of the matrix that is added to each adapted slice.
        alpha: The adapter's output is scaled by ``alpha / rank``.
        targets: The adapted slices of every encoder block.
    """

    rank: Count = 8
    alpha: Positive = 16.0
    targets: tuple[str, ...] = ("q", "k", "v")

    def __post_init__(self) -> None:
        """Refuse a rank below 1 and unknown targets."""
        check_settings(self, "lora")
        _check_targets("lora", self.targets)


Initialization = Literal["orthogonal", "normal"]
PenaltyKind = Literal["squared", "norm"]
Allocation = Literal["importance", "uniform", "random"]


@dataclass(frozen=True)
class AdaLoraConfig:
    """Adaptive low-rank adapters (Zhang et al., ICLR 2023).

    Attributes:
        initial_rank: Triplets of each adapted slice at the start.
        target_rank: Mean number of triplets per slice at the end; the budget is global.
        alpha: The adapter's output is scaled by ``alpha / target_rank``.
        warmup_steps: Steps before the first triplet is cut.
        final_steps: Steps at the end in which only the kept triplets are trained.
        interval_steps: Steps between two cuts.
        sensitivity_decay: Beta 1, smoothing of the sensitivity.
        uncertainty_decay: Beta 2, smoothing of the uncertainty.
        initialization: How P and Q start: ``orthogonal``, or ``normal``, small random numbers (SD
            0.02) as in peft, which the penalty makes orthogonal.
        orthogonality: Weight of the penalty that keeps P and Q orthogonal.
        penalty: ``squared``, equation 4 of the paper, summed over a layer's factors; or ``norm``,
            the mean over all factors of the norm itself, as in peft.
        targets: The adapted slices of every encoder block; one budget over all of them.
        allocation: Which triplets the budget keeps: the most important of the whole model
            (``importance``); for comparison, equally many of each slice (``uniform``) or random
            ones (``random``).
    """

    initial_rank: Count = 12
    target_rank: Count = 8
    alpha: Positive = 16.0
    warmup_steps: CountOrNone = 50
    final_steps: Count = 200
    interval_steps: Count = 10
    sensitivity_decay: Decay = 0.85
    uncertainty_decay: Decay = 0.85
    initialization: Initialization = "orthogonal"
    orthogonality: NotNegative = 0.1
    penalty: PenaltyKind = "squared"
    targets: tuple[str, ...] = ("q", "k", "v")
    allocation: Allocation = "importance"

    def __post_init__(self) -> None:
        """Refuse ranks and decays out of range."""
        check_settings(self, "adalora")
        if self.target_rank > self.initial_rank:
            raise ConfigError(
                f"adalora.target_rank {self.target_rank} must lie in 1..initial_rank "
                f"{self.initial_rank}"
            )
        _check_targets("adalora", self.targets)

    def check_schedule(self, total_steps: int) -> None:
        """Refuse a run that is too short for the schedule of the budget.

        Raises:
            ConfigError: No step is left between warm-up and the final phase.
        """
        kept_back = self.warmup_steps + self.final_steps
        if kept_back >= total_steps:
            raise ConfigError(
                f"adalora: warmup_steps {self.warmup_steps} + final_steps {self.final_steps} "
                f"= {kept_back} leave none of the {total_steps} steps in which the budget could "
                "fall"
            )


def _check_targets(table: str, targets: tuple[str, ...]) -> None:
    unknown = [name for name in targets if name not in TARGETS]
    if not targets or unknown or len(set(targets)) < len(targets):
        raise ConfigError(
            f"{table}.targets {list(targets)} must name one or more of {', '.join(TARGETS)}, "
            "each once"
        )
