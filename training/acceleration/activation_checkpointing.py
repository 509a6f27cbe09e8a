"""Activation checkpointing: encoder blocks keep only their input and recompute the rest.

Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016. Memory for activations shrinks
from that of all blocks to that of one block and the inputs of the others. The encoder's forward
pass is computed twice, so a step takes about a third longer. Results are the same to the bit.
"""

from __future__ import annotations

import functools

from torch.utils.checkpoint import checkpoint

from model_store.sam import PromptableSam


def recompute_encoder_blocks(model: PromptableSam) -> None:
    """Make every block of the image encoder drop its activations and recompute them.

    Parameters and module names do not change, so checkpoints fit with and without it.
    """
    for block in model.image_encoder.blocks:
        block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
