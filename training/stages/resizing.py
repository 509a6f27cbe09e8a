"""Change the input size, the windows or the mask prompt of a trained model."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from model_store.architecture import SamConfig, build_sam
from model_store.meta_checkpoint import resize_position_tables
from model_store.sam import PromptableSam

_FIRST_MASK_PROMPT = 0.1
"""Factor on the random weights of a new mask prompt."""


def resized_model(
    architecture: SamConfig, model: PromptableSam, wanted: SamConfig
) -> PromptableSam:
    """Return the model with the input size, the windows and the mask prompt of ``wanted``.

    Position tables are interpolated to the new grid. A block that attends within windows keeps the
    scale of its table: a smaller window uses the near part, a larger one repeats the farthest known
    value. New mask tokens are random and follow the old ones. A new mask prompt starts near the
    embedding that it replaces, so the model's behaviour hardly changes.

    Args:
        architecture: Sizes of ``model``.
        model: A float model without adapters.
        wanted: Sizes that differ only in ``input_size``, ``window_size``, ``global_attn_indexes``,
            ``box_as_mask`` and additional mask tokens.

    Raises:
        ValueError: Another size differs.
    """
    if wanted == architecture:
        return model
    same_sizes = dataclasses.replace(
        architecture,
        input_size=wanted.input_size,
        window_size=wanted.window_size,
        global_attn_indexes=wanted.global_attn_indexes,
        box_as_mask=wanted.box_as_mask,
        num_mask_tokens=max(wanted.num_mask_tokens, architecture.num_mask_tokens),
    )
    if same_sizes != wanted:
        raise ValueError(
            "only the input size, the attention windows and box_as_mask can change, and mask "
            "tokens be added"
        )
    larger = build_sam(dataclasses.replace(architecture, input_size=wanted.input_size))
    state = resize_position_tables(model.state_dict(), larger.state_dict())
    resized = build_sam(wanted)
    for name, target in resized.state_dict().items():
        if "rel_pos" in name:
            state[name] = _of_length(state[name], len(target))
    state = _with_new_tokens(state, resized.state_dict())
    resized.load_state_dict(state)
    if wanted.box_as_mask and not architecture.box_as_mask:
        _start_mask_prompt(resized)
    return resized


def _with_new_tokens(state: dict[str, Tensor], fresh: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the state with random mask tokens after the trained ones."""
    grown = dict(state)
    for name, target in fresh.items():
        known = state.get(name)
        if known is None:  # the hypernetwork of a new token
            grown[name] = target
        elif known.shape != target.shape:  # a row for each token
            grown[name] = torch.cat([known, target[len(known) :]])
    return grown


@torch.no_grad()
def _start_mask_prompt(model: PromptableSam) -> None:
    last = model.prompt_encoder.mask_downscaling[-1]
    last.weight.mul_(_FIRST_MASK_PROMPT)
    last.bias.copy_(model.prompt_encoder.no_mask_embed.weight[0])


def _of_length(table: Tensor, length: int) -> Tensor:
    """Cut or continue a table of relative positions (2G - 1, head) evenly around distance 0."""
    more = (length - len(table)) // 2
    if more <= 0:
        return table[-more : -more + length]
    return torch.cat([table[:1].expand(more, -1), table, table[-1:].expand(more, -1)])
