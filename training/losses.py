"""The loss of training: overlap, per-pixel cross entropy, and the error of the quality score."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from model_store.logit_resampling import resampling_matrix
from training.errors import ConfigError
from training.settings import NotNegative, check_settings


@dataclass(frozen=True)
class LossWeights:
    """Weights of the terms of the loss.

    Attributes:
        dice: Soft Dice, per prompt.
        cross_entropy: Mean binary cross entropy over pixels.
        iou: Squared error of the predicted IoU, SAM's quality score.
        other_convention: All of these for the lungs of the other convention, if there is a further
            mask.
        heart: All of these for the heart, if there is a further mask.
    """

    dice: NotNegative = 1.0
    cross_entropy: NotNegative = 2.0
    iou: NotNegative = 0.2
    other_convention: NotNegative = 0.5
    heart: NotNegative = 0.5

    def __post_init__(self) -> None:
        """Refuse negative weights, and a loss without a term for masks."""
        check_settings(self, "loss")
        if self.dice + self.cross_entropy == 0:
            raise ConfigError(
                "loss.dice and loss.cross_entropy are both 0; one of them must be above 0, or no "
                "mask learns"
            )


class MaskLoss:
    """The loss of the mask token of each prompt's convention."""

    def __init__(self, weights: LossWeights, loss_size: int) -> None:
        """Compare masks at ``loss_size`` x ``loss_size`` pixels of the padded input."""
        self.weights = weights
        self.loss_size = loss_size
        self._matrix: Tensor | None = None
        # Imported here: MONAI takes seconds to load, and settings alone do not need it.
        from monai.losses.dice import DiceLoss

        # smooth 1 instead of MONAI's 1e-5, so that an empty target still has a gradient.
        self._dice = DiceLoss(sigmoid=True, smooth_nr=1.0, smooth_dr=1.0)
        self._dice_each = DiceLoss(sigmoid=True, smooth_nr=1.0, smooth_dr=1.0, reduction="none")

    def __call__(
        self, logits: Tensor, predicted_iou: Tensor, target: Tensor, tokens: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the loss.

        Args:
            logits: Low-resolution logits of all tokens, (N, T, M, M).
            predicted_iou: Predicted IoU of all tokens, (N, T).
            target: Share of each pixel that belongs to the mask, (N, L, L) at the loss size.
            tokens: Which token each prompt trains, int64 (N,).

        Returns:
            The weighted sum (a scalar with gradient) and its terms for the log, which stay on the
            device to avoid synchronization.
        """
        rows = torch.arange(len(tokens), device=logits.device)
        matrix = self._resampling(logits)
        chosen = matrix @ logits[rows, tokens].float() @ matrix.T  # (N, L, L)
        dice = self._dice(chosen.unsqueeze(1), target.unsqueeze(1))
        cross_entropy = functional.binary_cross_entropy_with_logits(chosen, target)
        true_iou = _iou(chosen.detach() > 0, target > 0.5)
        iou = functional.mse_loss(predicted_iou[rows, tokens].float(), true_iou)
        w = self.weights
        total: Tensor = w.dice * dice + w.cross_entropy * cross_entropy + w.iou * iou
        terms = {"dice": dice, "cross_entropy": cross_entropy, "iou": iou}
        return total, {name: term.detach() for name, term in terms.items()}

    def of_known(self, logits: Tensor, iou: Tensor, target: Tensor, known: Tensor) -> Tensor:
        """Return the loss of one mask for each prompt, over the prompts where it is known.

        The mean is over all prompts, so the weight of a mask does not depend on how many are known.

        Args:
            logits: Low-resolution logits of the mask's token, (N, M, M).
            iou: Its predicted IoU, (N,).
            target: Share of each pixel that belongs to the mask, (N, L, L) at the loss size.
            known: 1 where the target is known, else 0, (N,).
        """
        matrix = self._resampling(logits)
        chosen = matrix @ logits.float() @ matrix.T  # (N, L, L)
        dice = self._dice_each(chosen.unsqueeze(1), target.unsqueeze(1)).flatten(1).mean(dim=1)
        cross_entropy = functional.binary_cross_entropy_with_logits(
            chosen, target, reduction="none"
        ).mean(dim=(1, 2))
        error = (iou.float() - _iou(chosen.detach() > 0, target > 0.5)).square()
        w = self.weights
        each = w.dice * dice + w.cross_entropy * cross_entropy + w.iou * error
        total: Tensor = (each * known).mean()
        return total

    def _resampling(self, logits: Tensor) -> Tensor:
        """Return the matrix that resamples logits to the loss size, (L, M), on their device."""
        if self._matrix is None or self._matrix.shape[1] != logits.shape[-1]:
            self._matrix = resampling_matrix(logits.shape[-1], 1.0, self.loss_size)
        self._matrix = self._matrix.to(logits.device)
        return self._matrix


def _iou(predicted: Tensor, true: Tensor) -> Tensor:
    """IoU of bool masks (N, L, L); two empty masks agree fully."""
    both = (predicted & true).sum(dim=(1, 2)).float()
    either = (predicted | true).sum(dim=(1, 2)).float()
    return torch.where(either > 0, both / either.clamp(min=1), torch.ones_like(either))
