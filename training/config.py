"""One training run as validated, frozen settings, read from a TOML file.

A TOML table per dataclass; names that are not a field are refused, so a misspelt setting never
silently keeps its default.
"""

from __future__ import annotations

import dataclasses
import json
import tomllib
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from model_store.architecture import SamConfig, sam_config
from model_store.conventions import CONVENTIONS, Convention
from training.adapters.config import AdaLoraConfig, AdaptationConfig, LoraConfig
from training.data.augmentation import AugmentConfig
from training.data.config import DataConfig
from training.data.prompts import PromptMix
from training.errors import ConfigError
from training.losses import LossWeights
from training.optimizers.config import OptimizerConfig
from training.quantization.config import QatConfig
from training.settings import build_settings

StageName = Literal["pretrain", "stage1", "stage2"]
STAGES: tuple[StageName, ...] = typing.get_args(StageName)


@dataclass(frozen=True)
class TeacherConfig:
    """Finished models whose masks a run learns from, beside those that people drew.

    Attributes:
        models: Runs, checkpoints or stored float models; their mean is the teacher. None: people
            alone teach.
        conventions: The convention that each model teaches, in the order of ``models``; empty
            where each teaches all. A model asked for a convention on patients whom it knows by
            the other one alone draws it badly, and one that never saw them draws it well.
        share: Weight of the teachers' masks; those of people weigh the rest.
        held_out: Whether model i was trained without fold i of ``data.folds`` and alone teaches
            it. A model that saw an X-ray's mask repeats it, slips included; one that did not says
            what people would draw on average.
    """

    models: tuple[str, ...] = ()
    conventions: tuple[Convention, ...] = ()
    share: float = 0.5
    held_out: bool = False

    def __post_init__(self) -> None:
        """Refuse a share outside 0..1, and conventions that leave one without a teacher."""
        if not 0 <= self.share <= 1:
            raise ConfigError(f"teacher.share is {self.share}; it must lie in 0..1")
        if not self.conventions:
            return
        if len(self.conventions) != len(self.models) or set(self.conventions) != set(CONVENTIONS):
            raise ConfigError(
                f"teacher.conventions {list(self.conventions)} must name one for each of the "
                f"{len(self.models)} models, and each of {', '.join(CONVENTIONS)} at least once"
            )
        if self.held_out:
            raise ConfigError(
                "teacher.held_out gives each fold one model, which must then teach every "
                "convention: leave teacher.conventions empty"
            )


@dataclass(frozen=True)
class RunConfig:
    """One training run.

    Attributes:
        stage: ``pretrain``, ``stage1`` or ``stage2``.
        steps: Optimizer steps; 0 in ``stage2`` calibrates and quantizes without training.
        seed: Seed of weights, batches and phantoms.
        batch_size: X-rays per step, over all parts and processes.
        accumulate: Parts in which a step's X-rays go through the model one after the other; the
            gradient is that of the whole batch, the memory that of a part.
        prompts_per_image: Boxes asked of each X-ray in a step.
        loss_size: Side at which masks are compared, in pixels.
        precision: ``bf16`` runs matrix products in bfloat16; ``fp32`` all in float32.
        recompute_blocks: Whether encoder blocks compute twice to keep less (activation
            checkpointing).
        deterministic: Whether to allow only operations that repeat to the bit on a GPU too.
        compile: Whether ``torch.compile`` fuses the model's forward and backward pass: a longer
            first step, then steps that wait less for Python. Needs a C compiler.
        validate_every_steps: Steps between two readings of the ``val`` split.
        checkpoint_every_steps: Steps between two checkpoints.
        patience: Stop after this many validations in a row without a gain; 0 never stops early.
        tensorboard: Whether the numbers of the log also go to TensorBoard.
        model: Sizes of the model; used by ``pretrain`` alone, the later stages take those of
            their base.
        input_size: Side of the input for ``stage1``, in pixels, when it shall differ from the
            base's; position tables are interpolated.
    """

    stage: StageName
    steps: int
    model: SamConfig
    input_size: int | None = None
    seed: int = 0
    batch_size: int = 16
    accumulate: int = 1
    prompts_per_image: int = 3
    loss_size: int = 128
    precision: Literal["bf16", "fp32"] = "fp32"
    recompute_blocks: bool = False
    deterministic: bool = False
    compile: bool = False
    validate_every_steps: int = 400
    checkpoint_every_steps: int = 100
    patience: int = 0
    tensorboard: bool = False
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    prompts: PromptMix = field(default_factory=PromptMix)
    loss: LossWeights = field(default_factory=LossWeights)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    adaptation: AdaptationConfig = field(default_factory=AdaptationConfig)
    adalora: AdaLoraConfig = field(default_factory=AdaLoraConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    qat: QatConfig = field(default_factory=QatConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)

    def __post_init__(self) -> None:
        """Refuse counts below 1 and unknown names."""
        if self.stage not in STAGES:
            raise ConfigError(f"stage is {self.stage!r}; it must be one of {', '.join(STAGES)}")
        if self.stage == "stage2" and self.steps < 0:
            raise ConfigError(f"steps is {self.steps}; it must be at least 0")
        if self.stage != "stage2" and self.steps < 1:
            raise ConfigError(f"steps is {self.steps}; it must be at least 1")
        for name in ("batch_size", "accumulate", "prompts_per_image", "loss_size",
                     "validate_every_steps", "checkpoint_every_steps"):  # fmt: skip
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.accumulate > self.batch_size:
            raise ConfigError(
                f"accumulate {self.accumulate} exceeds batch_size {self.batch_size}: a part holds "
                "at least one X-ray"
            )
        if self.patience < 0:
            raise ConfigError(f"patience is {self.patience}; it must be at least 0")
        if self.precision not in ("bf16", "fp32"):
            raise ConfigError(f"precision is {self.precision!r}; it must be bf16 or fp32")
        if self.teacher.held_out and len(self.teacher.models) != self.data.folds:
            raise ConfigError(
                f"teacher.held_out needs a model for each of data.folds {self.data.folds}, not "
                f"{len(self.teacher.models)}"
            )
        if self.stage == "stage1" and self.adaptation.method == "adalora":
            self.adalora.check_schedule(self.steps)

    def to_dict(self) -> dict[str, Any]:
        """Return plain types for checkpoints and logs."""
        return dataclasses.asdict(self)


_TABLES: Mapping[str, type[Any]] = {
    "data": DataConfig,
    "augment": AugmentConfig,
    "prompts": PromptMix,
    "loss": LossWeights,
    "optimizer": OptimizerConfig,
    "adaptation": AdaptationConfig,
    "adalora": AdaLoraConfig,
    "lora": LoraConfig,
    "qat": QatConfig,
    "teacher": TeacherConfig,
}


def load_config(path: Path, changes: Mapping[str, Any] | None = None) -> RunConfig:
    """Read a run from TOML.

    Args:
        path: The file.
        changes: Settings that replace those of the file, by dotted name (``data.root``).

    Raises:
        ConfigError: No such file, not TOML, or a setting that is unknown or out of range.
    """
    try:
        with path.open("rb") as file:
            values = tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    try:
        return with_settings(values, changes or {})
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from error


def with_settings(values: dict[str, Any], changes: Mapping[str, Any]) -> RunConfig:
    """Build a run from nested tables after replacing settings by dotted name.

    Raises:
        ConfigError: A setting is unknown, missing or out of range.
    """
    for dotted, value in changes.items():
        _set(values, dotted, value)
    return parse_config(values)


def parse_setting(text: str) -> tuple[str, Any]:
    """Read ``NAME=VALUE`` of a command line; a value that is not JSON is a string.

    Raises:
        ConfigError: There is no ``=``.
    """
    name, separator, value = text.partition("=")
    if not separator:
        raise ConfigError(f"--set {text!r} is not NAME=VALUE")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def parse_config(values: Mapping[str, Any]) -> RunConfig:
    """Build a run from nested tables.

    Raises:
        ConfigError: A setting is unknown, missing or out of range.
    """
    plain = dict(values)
    model = dict(plain.pop("model", {"variant": "vit_t"}))
    tables = {
        name: build_settings(kind, plain.pop(name, {}), name) for name, kind in _TABLES.items()
    }
    config = sam_config(model.pop("variant", "vit_t"), **model)
    return typing.cast(
        RunConfig, build_settings(RunConfig, {**plain, **tables, "model": config}, "run")
    )


def _set(values: dict[str, Any], dotted: str, value: Any) -> None:
    *tables, name = dotted.split(".")
    for table in tables:
        values = values.setdefault(table, {})
    values[name] = value
