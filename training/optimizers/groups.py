"""The choice of optimizer and peak rate for each group of weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from training.optimizers.config import OptimizerConfig
from training.optimizers.muon import StackedMuon

_OWN_RATES = {
    "singular": "singular_rate",
    "log_scale": "scale_rate",
    "log_weight_scale": "scale_rate",
    "unit": "unit_rate",
}
"""The setting of the learning rate, by the last part of parameters' names."""


def build_optimizers(
    named: Iterable[tuple[str, nn.Parameter]], config: OptimizerConfig
) -> list[torch.optim.Optimizer]:
    """Build AdamW for all weights, or Muon for the encoder's matrices and AdamW for the rest.

    Muon orthogonalises the momentum of weight matrices (Jordan et al. 2024); biases, norms,
    embeddings and position tables stay with AdamW, without weight decay.

    Args:
        named: The parameters that train.
        config: Rates.

    Returns:
        One or two optimizers; the peak rate of each group is kept as ``peak_lr`` in it.
    """
    matrices: list[nn.Parameter] = []
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    own_rate: dict[str, list[nn.Parameter]] = {}
    for name, parameter in named:
        if config.matrix_learning_rate > 0 and _is_encoder_matrix(name, parameter):
            matrices.append(parameter)
        elif (kind := name.rpartition(".")[2]) in _OWN_RATES:
            own_rate.setdefault(_OWN_RATES[kind], []).append(parameter)
        elif parameter.ndim >= 2 and not _is_table(name):
            decayed.append(parameter)
        else:
            plain.append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    for setting, parameters in own_rate.items():
        rate = getattr(config, setting) * config.learning_rate
        groups.append({"params": parameters, "weight_decay": 0.0, "lr": rate})
    on_gpu = any(p.is_cuda for p in (*decayed, *plain))
    adamw = torch.optim.AdamW(
        groups, lr=config.learning_rate, betas=(0.9, 0.98), fused=True if on_gpu else None
    )
    optimizers: list[torch.optim.Optimizer] = [adamw]
    if matrices:
        optimizers.append(
            StackedMuon(
                matrices,
                lr=config.matrix_learning_rate,
                weight_decay=config.weight_decay,
                adjust_lr_fn="match_rms_adamw",
            )
        )
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers


def _is_encoder_matrix(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim == 2 and "image_encoder.blocks" in name and not _is_table(name)


def _is_table(name: str) -> bool:
    return any(part in name for part in ("rel_pos", "pos_embed", "_embed", "token"))
