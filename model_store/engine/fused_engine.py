"""Execution on a GPU: fused kernels for the integers, everything recorded as CUDA graphs."""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch
from torch import Tensor, nn

from model_store.int8_layers import Int8Linear
from model_store.quantizable import replace_module
from model_store.sam import PromptableSam

BATCH_SIZES = (1, 2, 4, 8)
"""Numbers of images for which the encoder is recorded; more are cut into these."""


class FusedEngine:
    """The encoder on fused kernels, and everything recorded as CUDA graphs."""

    name = "fused"
    batches_alike = True
    fallback_reason: str | None = None

    def __init__(self, model: PromptableSam, input_shape: tuple[int, int]) -> None:
        """Record the encoder for each of `BATCH_SIZES` and the decoder for one box.

        Args:
            model: A model on a GPU whose integer layers `fuse_linear_layers` has replaced.
            input_shape: Channels and side of the model's input.
        """
        from model_store.engine.captured_call import CapturedCall
        from model_store.engine.fused_encoder import FusedEncoder

        device = model.pixel_mean.device
        self._lock = threading.Lock()
        self._encoder = FusedEncoder(model.image_encoder)
        channels, side = input_shape
        pool = torch.cuda.graph_pool_handle()
        with torch.inference_mode(), _exact_float_products():
            self._encode = {}
            for count in BATCH_SIZES:
                example = torch.zeros(count, channels, side, side, device=device)
                self._encode[count] = CapturedCall(
                    lambda images: (self._encoder.forward(images),), example, pool=pool
                )
            (embedding,) = self._encode[1].replay(torch.zeros(1, channels, side, side))
            first = torch.zeros(1, dtype=torch.int64, device=device)
            self._decode = CapturedCall(
                lambda image, box: model.decode_masks(image, box, first),
                embedding, torch.tensor([[0.0, 0.0, side, side]], device=device), pool=pool,
            )  # fmt: skip

    def encode_image(self, normalized: Tensor) -> Tensor:
        """Encode normalised images (B, C, S, S) into embeddings (B, D, G, G)."""
        with self._lock:
            parts, first = [], 0
            for count in cut_into_batches(normalized.shape[0]):
                (embeddings,) = self._encode[count].replay(normalized[first : first + count])
                parts.append(embeddings.clone())
                first += count
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def decode_box(self, embedding: Tensor, box: Tensor) -> tuple[Tensor, Tensor]:
        """Decode one box (1, 4) on one embedding (1, D, G, G)."""
        with self._lock:
            logits, iou = self._decode.replay(embedding, box)
            return logits.clone(), iou.clone()


def cut_into_batches(count: int) -> list[int]:
    """Cut a number of images into recorded batch sizes, large ones first."""
    sizes: list[int] = []
    for size in sorted(BATCH_SIZES, reverse=True):
        sizes += [size] * (count // size)
        count %= size
    return sizes


class FusedLinear(nn.Module):
    """``Int8Linear`` on the kernels; the conversion is one kernel and the product another."""

    def __init__(self, layer: Int8Linear) -> None:
        """Share the tensors of ``layer``."""
        super().__init__()
        from model_store.engine.fused_encoder import FusedLayer

        self._fused = FusedLayer(layer)

    def forward(self, values: Tensor) -> Tensor:
        """Map float32 (..., K) to float32 (..., N)."""
        flat = values.reshape(-1, values.shape[-1])
        return self._fused.apply(self._fused.enter(flat)).view(*values.shape[:-1], -1)


def fuse_linear_layers(root: nn.Module) -> Callable[[], None]:
    """Put `FusedLinear` in the place of every ``Int8Linear``; the returned call undoes it."""
    replaced = {n: m for n, m in root.named_modules() if isinstance(m, Int8Linear)}
    for name, layer in replaced.items():
        replace_module(root, name, FusedLinear(layer))

    def restore() -> None:
        for name, layer in replaced.items():
            replace_module(root, name, layer)

    return restore


class _exact_float_products:  # noqa: N801 - reads as a statement
    """Within the block no float32 product is shortened to TF32, convolutions included."""

    def __enter__(self) -> None:
        self._matmul = torch.backends.cuda.matmul.allow_tf32
        self._convolution = torch.backends.cudnn.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False

    def __exit__(self, *error: object) -> None:
        torch.backends.cuda.matmul.allow_tf32 = self._matmul
        torch.backends.cudnn.allow_tf32 = self._convolution
