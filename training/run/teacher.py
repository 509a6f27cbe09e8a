"""Distillation (Hinton et al. 2015): training on masks of finished models beside human masks.

Teacher and student get the same augmented X-ray and boxes at every step (Beyer et al., CVPR 2022).
People annotated each X-ray in only one convention. The teacher knows both, so it also predicts the
other one, and it averages out errors of single annotators.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from model_store.architecture import SamConfig
from model_store.conventions import CONVENTIONS, Convention, token_of
from model_store.sam import PromptableSam
from training.acceleration.compilation import compile_parts
from training.checkpoint import weights_sha256
from training.config import RunConfig
from training.errors import ConfigError
from training.losses import LossWeights
from training.stages.base import load_base

_TOKENS = [token_of(convention) for convention in CONVENTIONS]


class Teacher:
    """One or more frozen models: their mean, or each for the fold that it was not trained on."""

    def __init__(
        self,
        models: Sequence[PromptableSam],
        share: float,
        weights: LossWeights,
        compiled: bool,
        held_out: bool = False,
        conventions: Sequence[Convention] = (),
        annotated_only: bool = False,
    ) -> None:
        """Keep the models with their share of the loss.

        Args:
            models: Float models on the device of the training.
            share: Weight of their masks; human masks have the rest.
            weights: Weights of the loss on human masks; imitation weighs as much as the terms about
                masks together.
            compiled: Whether to fuse their operations by ``torch.compile``.
            held_out: Whether model i is the only teacher of fold i.
            conventions: Convention taken from model i; empty for all conventions.
            annotated_only: Whether they are used only for the convention of each X-ray's own mask.
        """
        self._annotated_only = annotated_only
        self._held_out = held_out
        self.models = tuple(models)
        self._models = [model.eval().requires_grad_(False) for model in models]
        taught: Sequence[Convention | None] = conventions or [None] * len(models)
        self._taught = [
            [place for place, one in enumerate(taught) if one in (None, convention)]
            for convention in CONVENTIONS
        ]
        if compiled:
            for model in models:
                compile_parts(model)
        self._share = share
        self._weight = weights.dice + weights.cross_entropy

    def weights_sha256(self) -> list[str]:
        """Return the hash of each model's weights."""
        return [weights_sha256(model.state_dict()) for model in self._models]

    @torch.no_grad()
    def masks(
        self, normalized: Tensor, boxes: Tensor, image_index: Tensor, folds: Tensor
    ) -> Tensor:
        """Return the probability of each convention's mask, float32 (N, 2, 4G, 4G).

        Args and shapes as in `PromptableSam.forward`, 16G the student's input size; ``folds`` is
        the fold of each prompt's X-ray, int64 (N,).
        """
        votes = [_vote(model, normalized, boxes, image_index) for model in self._models]
        if self._held_out:
            every = torch.stack(votes)  # (models, N, 2, 4G, 4G)
            return every[folds, torch.arange(len(folds), device=folds.device)]
        means = [
            torch.stack([votes[model][:, place] for model in models]).mean(dim=0)
            for place, models in enumerate(self._taught)
        ]
        return torch.stack(means, dim=1)

    def loss(self, logits: Tensor, taught: Tensor, tokens: Tensor) -> Tensor:
        """Return the cross entropy of logits against the teacher's masks.

        Args:
            logits: Logits of all tokens, (N, T, M, M).
            taught: Result of `masks`, (N, 2, M, M).
            tokens: Mask token of each X-ray's own convention, int64 (N,).
        """
        own = _of_conventions(logits)
        if self._annotated_only:
            rows = torch.arange(len(tokens), device=tokens.device)
            own, taught = own[rows, tokens], taught[rows, tokens]
        return self._weight * functional.binary_cross_entropy_with_logits(own, taught)

    def joined(self, people: Tensor, imitation: Tensor) -> Tensor:
        """Return the sum of both losses, each with its share."""
        return (1 - self._share) * people + self._share * imitation


def _vote(model: PromptableSam, normalized: Tensor, boxes: Tensor, image_index: Tensor) -> Tensor:
    """Return a model's masks, float32 (N, 2, 4G, 4G), from its own input size."""
    student, own = normalized.shape[-1], model.prompt_encoder.input_image_size[0]
    seen = (_resized(normalized, own), boxes * (own / student), image_index)
    return _resized(_of_conventions(model(*seen)[0]).sigmoid(), student // 4)


def _resized(planes: Tensor, side: int) -> Tensor:
    if planes.shape[-1] == side:
        return planes
    return functional.interpolate(planes, (side, side), mode="bilinear", antialias=True)


def _of_conventions(logits: Tensor) -> Tensor:
    """Pick each convention's mask, float32 (N, 2, M, M), from those of all tokens (N, T, M, M).

    They are picked one by one, because a list as index would be copied to the GPU.
    """
    return torch.stack([logits[:, token] for token in _TOKENS], dim=1).float()


def load_teacher(
    config: RunConfig, architecture: SamConfig, device: torch.device
) -> Teacher | None:
    """Load the teachers of a run; None without teachers.

    Raises:
        ConfigError: A teacher preprocesses pixels differently, knows another structure, was trained
            on its held-out fold, or does not know both conventions.
        CheckpointError: A teacher cannot be read.
        ArtifactError: A teacher is a stored model that is refused.
    """
    if not config.teacher.models:
        return None
    models = []
    for place, name in enumerate(config.teacher.models):
        base = load_base(Path(name))
        mine, its = _input_of(architecture), _input_of(base.architecture)
        if mine != its:
            raise ConfigError(f"teacher {name} takes {its}, this run's model {mine}")
        unknown = [one for one in CONVENTIONS if one not in base.conventions]
        if unknown:
            raise ConfigError(f"teacher {name} does not know {' and '.join(unknown)}")
        last_run = base.lineage[-1] if base.lineage else {}
        never_saw = f"{place} of {config.data.folds}"
        if config.teacher.held_out and last_run.get("without_fold") != never_saw:
            raise ConfigError(
                f"teacher {name} was not trained without fold {never_saw}, which it is to predict"
            )
        structure = last_run.get("structure", "lungs")
        if structure != config.data.structure:
            raise ConfigError(
                f"teacher {name} knows {structure}; this run learns {config.data.structure}"
            )
        if config.teacher.features and base.architecture != architecture:
            raise ConfigError(
                f"teacher.features: teacher {name} has other sizes than this run's model, so what "
                "its blocks give cannot be imitated"
            )
        models.append(base.model.to(device))
    teacher = config.teacher
    return Teacher(
        models, teacher.share, config.loss, config.compile, teacher.held_out, teacher.conventions,
        teacher.annotated_only,
    )  # fmt: skip


def _input_of(architecture: SamConfig) -> dict[str, object]:
    names = ("in_channels", "pixel_mean", "pixel_std")
    return {name: getattr(architecture, name) for name in names}
