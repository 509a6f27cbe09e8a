"""Execution on a GPU: fused kernels for the integers, everything recorded as CUDA graphs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_store.int8_layers import Int8Linear
from model_store.quantizable import replace_module
from model_store.sam import PromptableSam

if TYPE_CHECKING:
    from model_store.engine.captured_call import CapturedCall

BATCH_SIZES = (1, 2, 4, 8)
"""Numbers of images for which the encoder is recorded; more are cut into these. Only the first is
recorded before the model is used, because recording each takes about as long as the first."""


class FusedEngine:
    """The encoder on fused kernels, and everything recorded as CUDA graphs."""

    name = "fused"
    batches_alike = True
    fallback_reason: str | None = None
    batch_refusal: str | None = None
    """Why images do not share larger batches; None if they do."""

    def __init__(self, model: PromptableSam, input_shape: tuple[int, int]) -> None:
        """Record the encoder for one image and the decoder for one box.

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
        self._input_shape = (channels, side, side)
        self._device = device
        self._pool = pool = torch.cuda.graph_pool_handle()
        self._encode: dict[int, CapturedCall] = {}
        with torch.inference_mode(), _exact_float_products():
            self._record_encoder(BATCH_SIZES[0])
            (embedding,) = self._encode[1].replay(torch.zeros(1, channels, side, side))
            first = torch.zeros(1, dtype=torch.int64, device=device)
            self._decode = CapturedCall(
                lambda image, box: model.decode_masks(image, box, first),
                embedding, torch.tensor([[0.0, 0.0, side, side]], device=device), pool=pool,
            )  # fmt: skip

    def record_further(self) -> bool:
        """Record the encoder for the next of `BATCH_SIZES`; False when all of them are.

        A batch size is not used, and neither are larger ones, if it changes a single bit of an
        image's result. `batch_refusal` then says so.
        """
        with self._lock:
            missing = [count for count in BATCH_SIZES if count not in self._encode]
            if not missing or self.batch_refusal is not None:
                return False
            count = missing[0]
            with torch.inference_mode(), _exact_float_products():
                self._record_encoder(count)
                if not self._is_as_alone(count):
                    del self._encode[count]
                    self.batch_refusal = (
                        f"images in a batch of {count} do not come out as each alone; batches are "
                        f"of {max(self._encode)} at most"
                    )
            return self.batch_refusal is None

    def _is_as_alone(self, count: int) -> bool:
        """Whether each of some random images has the same embedding in a batch and alone."""
        generator = torch.Generator().manual_seed(count)
        coarse = torch.rand((count, self._input_shape[0], 24, 24), generator=generator) * 4 - 2
        images = functional.interpolate(coarse, size=self._input_shape[1:], mode="bilinear")
        images = images.to(self._device)
        (together,) = self._encode[count].replay(images)
        together = together.clone()
        for index in range(count):
            (alone,) = self._encode[1].replay(images[index : index + 1])
            if not torch.equal(alone[0], together[index]):
                return False
        return True

    def _record_encoder(self, count: int) -> None:
        from model_store.engine.captured_call import CapturedCall

        example = torch.zeros(count, *self._input_shape, device=self._device)
        self._encode[count] = CapturedCall(
            lambda images: (self._encoder.forward(images),), example, pool=self._pool
        )

    def encode_image(self, normalized: Tensor) -> Tensor:
        """Encode normalised images (B, C, S, S) into embeddings (B, D, G, G)."""
        with self._lock:
            parts, first = [], 0
            for count in cut_into_batches(normalized.shape[0], list(self._encode)):
                (embeddings,) = self._encode[count].replay(normalized[first : first + count])
                parts.append(embeddings.clone())
                first += count
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def decode_box(self, embedding: Tensor, box: Tensor) -> tuple[Tensor, Tensor]:
        """Decode one box (1, 4) on one embedding (1, D, G, G)."""
        with self._lock:
            logits, iou = self._decode.replay(embedding, box)
            return logits.clone(), iou.clone()


def cut_into_batches(count: int, recorded: Sequence[int] = BATCH_SIZES) -> list[int]:
    """Cut a number of images into recorded batch sizes, large ones first; 1 is among them."""
    sizes: list[int] = []
    for size in sorted(recorded, reverse=True):
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
    """Replace every ``Int8Linear`` by a `FusedLinear`; the returned function undoes it."""
    replaced = {n: m for n, m in root.named_modules() if isinstance(m, Int8Linear)}
    for name, layer in replaced.items():
        replace_module(root, name, FusedLinear(layer))

    def restore() -> None:
        for name, layer in replaced.items():
            replace_module(root, name, layer)

    return restore


class _exact_float_products:  # noqa: N801 - reads as a statement
    """Compute float32 products within the block without TF32, convolutions included.

    cuDNN also uses deterministic algorithms only. Otherwise a recording could give another last
    bit, and a mask another pixel, for the same X-ray.
    """

    def __enter__(self) -> None:
        self._matmul = torch.backends.cuda.matmul.allow_tf32
        self._convolution = torch.backends.cudnn.allow_tf32
        self._deterministic = torch.backends.cudnn.deterministic
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.deterministic = True

    def __exit__(self, *error: object) -> None:
        torch.backends.cuda.matmul.allow_tf32 = self._matmul
        torch.backends.cudnn.allow_tf32 = self._convolution
        torch.backends.cudnn.deterministic = self._deterministic
