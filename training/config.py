"""One training run as validated, frozen settings, read from a TOML file.

A TOML table per dataclass; unknown names are refused, so a misspelt setting never silently keeps
its default.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import tomllib
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Interval

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
from training.settings import (
    Count,
    CountOrNone,
    NotNegative,
    Share,
    build_settings,
    check_names,
    check_settings,
    check_value,
    without_lists,
)

StageName = Literal["pretrain", "stage1", "stage2"]


@dataclass(frozen=True)
class TeacherConfig:
    """The teachers: finished models whose masks train a run beside human masks.

    Attributes:
        models: Runs, checkpoints or stored float models; the student is trained on the mean of
            their probabilities. Without any, only human masks train.
        conventions: The convention taken from each model, in the order of ``models``; empty for all
            conventions. A model segments a convention badly on patients whom it knows only by the
            other one, and well on patients whom it was never trained on.
        share: Weight of the teachers' masks; human masks have the rest.
        features: Weight of imitating the outputs of each block of the teacher's image encoder and
            of its neck; requires one teacher of the run's own sizes.
        held_out: Whether model i was trained without fold i of ``data.folds`` and is the only
            teacher of that fold. A model repeats the masks that it was trained on, errors included;
            on other X-rays it predicts what people would annotate on average.
        annotated_only: Whether teachers are used only for the convention of an X-ray's human mask;
            further masks give the other one.
    """

    models: tuple[str, ...] = ()
    conventions: tuple[Convention, ...] = ()
    share: Share = 0.5
    features: NotNegative = 0.0
    held_out: bool = False
    annotated_only: bool = False

    def __post_init__(self) -> None:
        """Refuse a share outside 0..1, and a convention without a teacher."""
        check_settings(self, "teacher")
        if self.features and len(self.models) != 1:
            raise ConfigError(
                f"teacher.features imitates one teacher, but teacher.models names "
                f"{len(self.models)}"
            )
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
        accumulate: Parts into which a step's X-rays are divided; the gradient is that of the whole
            batch, the memory that of a part.
        prompts_per_image: Prompt boxes of each X-ray in a step.
        loss_size: Side at which masks are compared, in pixels.
        precision: ``bf16`` runs matrix products in bfloat16; ``fp32`` all in float32.
        recompute_blocks: Whether encoder blocks are computed twice to save memory (activation
            checkpointing).
        deterministic: Whether to allow only operations that are deterministic on a GPU, too.
        compile: Whether ``torch.compile`` fuses the model's forward and backward pass: a longer
            first step, then faster steps. Needs a C compiler.
        validate_every_steps: Steps between two validations.
        checkpoint_every_steps: Steps between two checkpoints.
        patience: Stop after this many validations in a row without a gain; 0 never stops early.
        tensorboard: Whether the numbers of the log also go to TensorBoard.
        mlflow: Whether they also go to the MLflow server that ``MLFLOW_TRACKING_URI`` names.
        model: Sizes of the model for ``pretrain``; later stages use those of their base.
        input_size: Side of the input for ``stage1``, in pixels, when it differs from the
            base's; position tables are interpolated.
    """

    stage: StageName
    steps: CountOrNone
    model: SamConfig
    input_size: Count | None = None
    seed: Annotated[int, Interval(ge=0, le=2**63 - 1)] = 0
    batch_size: Count = 16
    accumulate: Count = 1
    prompts_per_image: Count = 3
    loss_size: Count = 128
    precision: Literal["bf16", "fp32"] = "fp32"
    recompute_blocks: bool = False
    deterministic: bool = False
    compile: bool = False
    validate_every_steps: Count = 400
    checkpoint_every_steps: Count = 100
    patience: CountOrNone = 0
    tensorboard: bool = False
    mlflow: bool = False
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
        """Refuse values out of range, and settings that contradict each other."""
        check_settings(self, "")
        if self.stage != "stage2" and self.steps < 1:
            raise ConfigError(f"steps is {self.steps}; it must be at least 1")
        if self.accumulate > self.batch_size:
            raise ConfigError(
                f"accumulate {self.accumulate} exceeds batch_size {self.batch_size}: a part holds "
                "at least one X-ray"
            )
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

_FORMER_NAMES: Mapping[str, str] = {"data.drawn_otherwise": "data.convention_mismatch"}
"""Renamed settings; files with the former names are accepted, with a warning."""


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
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def with_settings(values: dict[str, Any], changes: Mapping[str, Any]) -> RunConfig:
    """Build a run from nested tables after replacing settings by dotted name.

    Raises:
        ConfigError: A setting is unknown, missing or out of range.
    """
    values = _with_present_names(values)
    for dotted, value in changes.items():
        _set(values, _present_name(dotted), value)
    return parse_config(values)


def parse_changes(texts: Iterable[str]) -> dict[str, Any]:
    """Read the ``NAME=VALUE`` of a command line; a value that is not JSON is a string.

    The last value of a repeated name counts, as usual on command lines.

    Raises:
        ConfigError: There is no ``=``.
    """
    changes: dict[str, Any] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator:
            raise ConfigError(f"--set {text!r} is not NAME=VALUE")
        try:
            changes[name] = json.loads(value)
        except (json.JSONDecodeError, RecursionError):
            changes[name] = value
    return changes


def parse_config(values: Mapping[str, Any]) -> RunConfig:
    """Build a run from nested tables.

    Raises:
        ConfigError: A setting is unknown, missing or out of range.
    """
    plain = _with_present_names(values)
    model = _model_sizes(plain.pop("model", {}))
    tables = {
        name: build_settings(kind, plain.pop(name, {}), name) for name, kind in _TABLES.items()
    }
    names = [field.name for field in dataclasses.fields(RunConfig)]
    check_names(plain, names, "the run")
    return typing.cast(
        RunConfig, build_settings(RunConfig, {**plain, **tables, "model": model}, "")
    )


def _with_present_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tables with renamed settings under their current names, and warn about each.

    Raises:
        ConfigError: A setting is given by both names.
    """
    tables = dict(values)
    for former, present in _FORMER_NAMES.items():
        (table, old), (_, new) = former.split("."), present.split(".")
        settings = tables.get(table)
        if not isinstance(settings, Mapping) or old not in settings:
            continue
        if new in settings:
            raise ConfigError(f"{former} is the former name of {present}; give the latter alone")
        _present_name(former)
        tables[table] = {new if name == old else name: one for name, one in settings.items()}
    return tables


def _present_name(dotted: str) -> str:
    """Return the current name of a setting, and warn if it was renamed."""
    present = _FORMER_NAMES.get(dotted, dotted)
    if present != dotted:
        print(f"warning: {dotted} is now called {present}", file=sys.stderr)
    return present


def _model_sizes(values: Any) -> SamConfig:
    """Build the sizes of the model from the table ``model``; by default those of ``vit_t``."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"model is {values!r}; it must be a table")
    hints = typing.get_type_hints(SamConfig)
    check_names(values, hints, "[model]")
    sizes = {name: without_lists(value) for name, value in values.items()}
    for name, value in sizes.items():
        check_value(hints[name], value, f"model.{name}")
    try:
        return sam_config(**{"variant": "vit_t", **sizes})
    except ValueError as error:
        raise ConfigError(f"[model]: {error}") from error


def _set(values: dict[str, Any], dotted: str, value: Any) -> None:
    *tables, name = dotted.split(".")
    for table in tables:
        values = values.setdefault(table, {})
        if not isinstance(values, dict):
            raise ConfigError(f"--set {dotted}: {table} is one setting, not a table of settings")
    values[name] = value
