"""Attention with decomposed relative positions through PyTorch's fused operator, for CPUs.

SAM adds ``q . Rh[y - y'] + q . Rw[x - x']`` to every score, as two additions over all pairs of
tokens, before a softmax that passes over them again. Both products depend on a key's row or
column only. So each query is widened by its products with all rows and all columns, and each key
by a 1 at its own row and its own column: one product then gives the whole score, and the fused
operator works on it tile by tile. Nothing of size N x N exists.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class WidenedAttention(nn.Module):
    """SAM's encoder attention, its own q, k, v and output layers around the fused operator."""

    distances: Tensor
    places: Tensor

    def __init__(self, attention: Any) -> None:
        """Share the layers and tables of a ``segment_anything`` encoder attention."""
        super().__init__()
        self.qkv, self.proj = attention.qkv, attention.proj
        self.rel_pos_h, self.rel_pos_w = attention.rel_pos_h, attention.rel_pos_w
        self.num_heads = int(attention.num_heads)
        side = (attention.rel_pos_h.shape[0] + 1) // 2
        line = torch.arange(side, device=attention.rel_pos_h.device)
        self.register_buffer(
            "distances", line[:, None] - line[None, :] + side - 1, persistent=False
        )  # (side, side), query first
        one = torch.eye(side, device=line.device)
        rows, columns = one.repeat_interleave(side, 0), one.repeat(side, 1)
        self.register_buffer("places", torch.cat([rows, columns], 1), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map float32 tokens (B, side, side, C) to (B, side, side, C)."""
        groups, side, _, channels = tokens.shape
        heads, width = self.num_heads, channels // self.num_heads
        qkv = self.qkv(tokens).view(groups, side * side, 3, heads, width)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (B, heads, N, width)
        square = q.reshape(groups, heads, side, side, width)
        near_y = torch.einsum("bhyxc,ykc->bhyxk", square, self.rel_pos_h[self.distances])
        near_x = torch.einsum("bhyxc,xkc->bhyxk", square, self.rel_pos_w[self.distances])
        near = torch.cat([near_y, near_x], dim=-1).view(groups, heads, side * side, 2 * side)
        wide_q = torch.cat([q * width**-0.5, near], dim=-1)
        places = self.places.to(k.dtype).expand(groups, heads, -1, -1)
        wide_k = torch.cat([k, places], dim=-1)
        wide_v = functional.pad(v, (0, 2 * side))  # the operator wants one width
        mixed = functional.scaled_dot_product_attention(wide_q, wide_k, wide_v, scale=1.0)
        mixed = mixed[..., :width].transpose(1, 2).reshape(groups, side, side, channels)
        projected: Tensor = self.proj(mixed)
        return projected


def widen_attention(encoder: Any) -> None:
    """Put `WidenedAttention` into every block of a ``segment_anything`` image encoder."""
    for block in encoder.blocks:
        if not isinstance(block.attn, WidenedAttention):
            block.attn = WidenedAttention(block.attn)
