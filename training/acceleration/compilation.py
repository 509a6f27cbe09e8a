"""Fusing a model's operations with ``torch.compile``, part by part.

The blocks of an encoder share their code, so each kind is compiled once. That takes seconds, where
compiling the model as one graph took two minutes.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from model_store.sam import PromptableSam


def compile_parts(model: PromptableSam) -> None:
    """Compile the encoder's blocks and the decoder's large parts in place; names stay as they are.

    Batches must keep their shape; run other shapes within `uncompiled`.
    """
    decoder = model.mask_decoder
    for part in [*model.image_encoder.blocks, decoder.transformer, decoder.output_upscaling]:
        part.compile(dynamic=False)


def uncompiled(model_is_compiled: bool) -> AbstractContextManager[object]:
    """Run everything within the block without compilation."""
    # The compiler takes seconds to import, so it is imported only if needed.
    return torch.compiler.set_stance("force_eager") if model_is_compiled else nullcontext()
