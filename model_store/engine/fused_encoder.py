"""SAM's image encoder on fused kernels: int8 between layers wherever both sides are integers.

The residual stream stays float32 rows (tokens, C). Around it each block is five kernels:
LayerNorm + quantize; qkv product; attention, quantized for the next layer; projection product
+ residual; and the same again for the two layers of the MLP with GELU + quantize between them.
Layers that the model keeps in float are computed by PyTorch, so any mixture that a manifest can
describe runs here.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_store.engine.kernels.attention import AttentionGrid, attention
from model_store.engine.kernels.layer_norm import layer_norm
from model_store.engine.kernels.matrix import int8_matrix
from model_store.engine.kernels.quantize import quantize
from model_store.engine.token_windows import window_source_rows
from model_store.int8_layers import Int8Conv2d, Int8Linear, Int8Matrix

AttentionDtype = Literal["float16", "float32"]

LARGEST_FLOAT32_GRID = 24
"""Up to this side of the token grid, attention is computed in float32. It costs little there, and
masks then differ from the CPU's no more than those of two CPUs do. On larger grids it would take
most of the time."""


def choose_attention_dtype(grid_size: int) -> AttentionDtype:
    """Return the dtype in which q, k and v are multiplied."""
    return "float32" if grid_size <= LARGEST_FLOAT32_GRID else "float16"


class FusedLayer:
    """One linear layer, or a convolution as a product on rows, in integers or in float."""

    def __init__(self, layer: nn.Module) -> None:
        """Share the tensors of ``layer``; nothing is copied but a row of scales."""
        self.matrix: Int8Matrix | None = None
        self.weight: Tensor
        self.bias: Tensor | None
        if isinstance(layer, Int8Linear | Int8Conv2d):
            self.matrix = layer.matrix
            self.weight, self.bias = layer.matrix.weight, layer.matrix.bias
            self.scale = layer.matrix.activation_scale * layer.matrix.weight_scale
        elif isinstance(layer, nn.Linear | nn.Conv2d):
            self.weight, self.bias = layer.weight.flatten(1), layer.bias
        else:
            raise TypeError(f"{type(layer).__name__} is not a layer that can be fused")

    @property
    def step(self) -> Tensor | None:
        """Activation scale of the input when the layer is of integers, else None."""
        return None if self.matrix is None else self.matrix.activation_scale

    def enter(self, values: Tensor) -> Tensor:
        """Turn float32 rows into what `apply` takes."""
        return values if self.step is None else quantize(values, self.step)

    def apply(
        self,
        rows: Tensor,
        *,
        gelu: bool = False,
        residual: Tensor | None = None,
        following: FusedLayer | None = None,
        output: Tensor | None = None,
    ) -> Tensor:
        """Multiply rows that were entered, and do what follows.

        Args:
            rows: int8 steps or float32, (M, K).
            gelu: Whether GELU follows the product.
            residual: float32 (R, N), added row by row modulo R.
            following: Layer whose input the result is; it decides between int8 and float32.
            output: Where to write, (M, N) contiguous, float16 or float32.
        """
        step = None if following is None else following.step
        if self.matrix is not None:
            return int8_matrix(
                rows, self.weight, self.scale, self.bias,
                gelu=gelu, residual=residual, step=step, output=output,
            )  # fmt: skip
        values = functional.linear(rows, self.weight, self.bias)
        if gelu:
            values = functional.gelu(values)
        if residual is not None:
            values = values + residual.repeat(values.shape[0] // residual.shape[0], 1)
        if output is not None:
            return output.copy_(values)
        return values if step is None else quantize(values, step)


class FusedBlock:
    """One transformer block of the encoder."""

    def __init__(self, block: Any, grid_size: int, dtype: torch.dtype) -> None:
        """Share the tensors of a ``segment_anything`` encoder block."""
        self.norm1, self.norm2 = block.norm1, block.norm2
        self.qkv, self.projection = FusedLayer(block.attn.qkv), FusedLayer(block.attn.proj)
        self.widening, self.narrowing = FusedLayer(block.mlp.lin1), FusedLayer(block.mlp.lin2)
        self.grid_size, self.window_size = grid_size, int(block.window_size)
        side = self.window_size or grid_size
        heads = int(block.attn.num_heads)
        width = self.projection.weight.shape[1]
        self.grid = AttentionGrid(heads, width // heads, side, side)
        self.table_y = block.attn.rel_pos_h.to(dtype).contiguous()  # (2 * side - 1, head)
        self.table_x = block.attn.rel_pos_w.to(dtype).contiguous()
        self.dtype = dtype

    def forward(self, stream: Tensor, source_rows: Tensor | None) -> Tensor:
        """Map the residual stream, float32 (tokens, C), to the next."""
        rows, channels = stream.shape
        entered = layer_norm(stream, self.norm1, self.qkv.step)
        # One row more than there are tokens: what the layer makes of tokens outside the image.
        qkv = torch.empty((rows + 1, 3 * channels), dtype=self.dtype, device=stream.device)
        if self.qkv.bias is None:
            qkv[rows].zero_()
        else:
            qkv[rows].copy_(self.qkv.bias)
        self.qkv.apply(entered, output=qkv[:rows])
        mixed = attention(
            qkv, self.table_y, self.table_x, self.grid, rows=rows, source_rows=source_rows,
            step=self.projection.step,
        )  # fmt: skip
        stream = self.projection.apply(mixed, residual=stream)
        entered = layer_norm(stream, self.norm2, self.widening.step)
        hidden = self.widening.apply(entered, gelu=True, following=self.narrowing)
        return self.narrowing.apply(hidden, residual=stream)


class FusedEncoder:
    """The image encoder; holds no weights of its own."""

    def __init__(self, encoder: Any, dtype: AttentionDtype | None = None) -> None:
        """Share the tensors of a ``segment_anything`` image encoder.

        Args:
            encoder: The encoder, some or all of its layers in integers.
            dtype: In what q, k and v are multiplied; None chooses by size.

        Raises:
            TypeError: A layer is of a kind that is not known here.
        """
        self.patch_size = int(encoder.patch_embed.proj.kernel_size[0]) if isinstance(
            encoder.patch_embed.proj, nn.Conv2d
        ) else int(encoder.patch_embed.proj.kernel_size)  # fmt: skip
        self.grid_size = int(encoder.pos_embed.shape[1])
        chosen = torch.float32
        if (dtype or choose_attention_dtype(self.grid_size)) == "float16":
            chosen = torch.float16
        self.patches = FusedLayer(encoder.patch_embed.proj)
        self.position = encoder.pos_embed.flatten(0, 2).contiguous()  # (G * G, C)
        self.blocks = [FusedBlock(block, self.grid_size, chosen) for block in encoder.blocks]
        self.narrow, self.narrow_norm = FusedLayer(encoder.neck[0]), encoder.neck[1]
        self.spread, self.spread_norm = FusedLayer(encoder.neck[2]), encoder.neck[3]
        self._window_rows: dict[tuple[int, int], Tensor] = {}

    def forward(self, normalized: Tensor) -> Tensor:
        """Map normalised images, float32 (B, C, S, S), to embeddings, float32 (B, D, G, G)."""
        images, grid_size = normalized.shape[0], self.grid_size
        stream = self.patches.apply(
            self.patches.enter(self._cut(normalized)), residual=self.position
        )  # (B * G * G, C)
        for block in self.blocks:
            stream = block.forward(stream, self._source_rows(images, block, stream.device))
        values = self.narrow.apply(self.narrow.enter(stream))
        entered = layer_norm(values, self.narrow_norm, self.spread.step)
        values = self.spread.apply(self._neighbourhoods(entered, images))
        rows = layer_norm(values, self.spread_norm, None)  # (B * G * G, D)
        return rows.view(images, grid_size, grid_size, -1).permute(0, 3, 1, 2)

    def _cut(self, normalized: Tensor) -> Tensor:
        """Cut images into the rows of their patches, (B * G * G, C * P * P)."""
        images, channels = normalized.shape[:2]
        side, grid_size = self.patch_size, self.grid_size
        cut = normalized.view(images, channels, grid_size, side, grid_size, side)
        return cut.permute(0, 2, 4, 1, 3, 5).reshape(-1, channels * side * side)

    def _neighbourhoods(self, rows: Tensor, images: int) -> Tensor:
        """Lay the 3 x 3 neighbours of every token beside each other, (B * G * G, D * 9).

        Steps of 0 stand for 0, so padding with 0 is right for int8 and for float alike.
        """
        size = self.grid_size
        padded = functional.pad(rows.view(images, size, size, -1), (0, 0, 1, 1, 1, 1))
        patches = padded.unfold(1, 3, 1).unfold(2, 3, 1)  # (B, G, G, D, 3, 3)
        return patches.reshape(images * size * size, -1)

    def _source_rows(self, images: int, block: FusedBlock, device: torch.device) -> Tensor | None:
        if block.window_size == 0:
            return None
        key = (images, block.window_size)
        if key not in self._window_rows:
            rows = window_source_rows(images, self.grid_size, block.window_size)
            self._window_rows[key] = rows.to(device)
        return self._window_rows[key]
