"""The loss of further masks: the lungs of the other convention, and the heart."""

from __future__ import annotations

import torch
from torch import Tensor

from model_store.conventions import CONVENTIONS
from model_store.structures import HEART, STRUCTURE_TOKENS
from training.data.batches import TrainingBatch
from training.losses import MaskLoss


def further_loss(
    loss: MaskLoss, logits: Tensor, predicted_iou: Tensor, batch: TrainingBatch
) -> tuple[Tensor, dict[str, Tensor]] | None:
    """Compute the loss of the further masks; None if the batch has none.

    Args:
        loss: Loss function, applied to each further mask.
        logits: Low-resolution logits of all tokens, (N, T, M, M).
        predicted_iou: Predicted IoU of all tokens, (N, T).
        batch: The batch, on the same device.

    Returns:
        The weighted sum and its terms for the log.
    """
    if batch.further.shape[1] == 0:
        return None
    planes = batch.further.float()[batch.image_index] / 255.0  # (N, 3, L, L)
    meant = planes * batch.further_meant[:, :, None, None]
    rows = torch.arange(len(batch.tokens), device=logits.device)
    other = len(CONVENTIONS) - 1 - batch.tokens
    heart = torch.full_like(batch.tokens, STRUCTURE_TOKENS[HEART])
    masks = (
        (
            "other_convention",
            loss.weights.other_convention,
            other,
            meant[:, :2].sum(1).clamp(max=1),
        ),
        ("heart", loss.weights.heart, heart, meant[:, 2]),
    )
    total = logits.new_zeros((), dtype=torch.float32)
    terms: dict[str, Tensor] = {}
    for place, (name, weight, tokens, target) in enumerate(masks):
        known = batch.further_known[:, place]
        one = loss.of_known(logits[rows, tokens], predicted_iou[rows, tokens], target, known)
        terms[name] = one.detach()
        total = total + weight * one
    return total, terms
