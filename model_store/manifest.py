"""The schema of ``manifest.json``, which describes a stored model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from model_store.conventions import Convention
from model_store.weight_levels import EIGHT_BIT_LEVELS, WeightLevels

FORMAT_VERSION: Literal[2] = 2
"""Increases when an older reader could misread a newer folder. Version 2 added structures beside
the lungs, a quality head and the distributions of training."""

Precision = Literal["int8", "float"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class WeightsFile(_Strict):
    """The file of tensors beside the manifest."""

    file: str = "weights.safetensors"
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size_bytes: int = Field(gt=0)
    float_size_bytes: int = Field(gt=0, description="size of the same weights in float32")


class Quantization(_Strict):
    """How each layer is stored and executed."""

    scheme: str = Field(description="name of the integer scheme, or 'none'")
    layers: dict[str, Precision] = Field(description="every layer that could be integers")
    weight_levels: dict[str, int] = Field(
        default_factory=dict,
        description="integer layers whose weights are stored packed, and how many values one has",
    )

    @property
    def weight_bits(self) -> int:
        """Bits of a stored weight, the most of any integer layer; 32 without integer layers."""
        integer = [name for name, precision in self.layers.items() if precision == "int8"]
        counts = (self.weight_levels.get(name, EIGHT_BIT_LEVELS) for name in integer)
        return max((WeightLevels(count).bits for count in counts), default=32)


class TrainingData(_Strict):
    """One source of training X-rays."""

    source: str
    images: int = Field(ge=0)
    convention: str
    license: str


class SelfTest(_Strict):
    """A picture with the mask that this model predicts on it."""

    image_file: str = "golden_image.png"
    image_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    mask_file: str = "golden_mask.png"
    mask_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    box: tuple[float, float, float, float]
    convention: Convention
    minimum_agreement: float = Field(
        default=0.999, gt=0, le=1, description="least share of equal pixels on any machine"
    )


NAME_PATTERN = r"^[a-z0-9][a-z0-9-]{0,63}$"
"""Names of models: lower case letters, digits and hyphens, so that each can name a folder."""

VERSION_PATTERN = r"^[0-9]{1,6}$"
"""Versions of models: whole numbers."""


class QualityHeadFile(_Strict):
    """The head that tells what kind of picture an X-ray is (`model_store.quality_head`)."""

    file: str = "quality_head.safetensors"
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    labels: tuple[str, ...] = Field(min_length=1, description="what its outputs stand for")
    limits: dict[str, float] = Field(
        description="least probability at which a label applies; set on `val`"
    )

    def labels_for(self, probabilities: Mapping[str, float]) -> tuple[str, ...]:
        """Return the labels whose probability reaches its limit, in the order of `labels`."""
        return tuple(
            name for name in self.labels if probabilities[name] >= self.limits.get(name, 1.0)
        )


class Distribution(_Strict):
    """How a number is distributed over the training X-rays, to notice when later ones differ."""

    n: int = Field(gt=0, description="X-rays, or masks")
    mean: float
    deviation: float = Field(ge=0, description="standard deviation")
    quantiles: dict[str, float] = Field(description="by share: 0.01, 0.05, 0.25, 0.5, ...")


class Manifest(_Strict):
    """Everything about a stored model except its tensors."""

    format_version: Literal[1, 2] = FORMAT_VERSION
    name: str = Field(pattern=NAME_PATTERN)
    version: str = Field(pattern=VERSION_PATTERN)
    architecture: dict[str, Any]
    preprocessing_version: int
    conventions: dict[str, int] = Field(description="mask token of each convention")
    structures: dict[str, int] = Field(
        default_factory=dict, description="mask token of each structure beside the lungs"
    )
    quality_head: QualityHeadFile | None = None
    training_distributions: dict[str, Distribution] = Field(
        default_factory=dict,
        description="grey level, size, and of this model's masks confidence and area ratio, over "
        "the X-rays that trained",
    )
    quantization: Quantization
    weights: WeightsFile
    training_data: tuple[TrainingData, ...] = ()
    training: dict[str, Any] = Field(
        default_factory=dict, description="recipe: stages, steps, ranks, seeds"
    )
    metrics: dict[str, Any] = Field(
        default_factory=dict, description="quality on the test split, FP32 beside INT8"
    )
    evaluation: dict[str, Any] = Field(
        default_factory=dict,
        description="per split: paired comparison with FP32, SSIM, Dice against box jitter",
    )
    float_twin: str | None = Field(
        default=None, description="name/version of the same model before quantization"
    )
    code_version: str
    license: str = "Apache-2.0"
    intended_use: str
    self_test: SelfTest | None = None

    def kind_of(self, quality: Mapping[str, float] | None) -> tuple[str, ...]:
        """Return the quality head's labels of a picture; none without such a head.

        Args:
            quality: probability of each of its labels; None from a model without one.
        """
        if self.quality_head is None or quality is None:
            return ()
        return self.quality_head.labels_for(quality)

    @model_validator(mode="after")
    def _check_version(self) -> Self:
        newer = self.structures or self.quality_head or self.training_distributions
        if self.format_version == 1 and newer:
            raise ValueError("a manifest of format version 1 knows lungs alone")
        return self
