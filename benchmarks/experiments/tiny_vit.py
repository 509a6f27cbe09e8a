"""LiteMedSAM's image encoder: a TinyViT whose first patches are single pixels, 256 px to 64 x 64.

Convolutions first, then ten blocks of attention in windows, then SAM's neck. The network is that of
Wu et al., "TinyViT", ECCV 2022, as LiteMedSAM changed it. Frozen batch norms are folded into the
convolutions before them, and the rows of ``qkv`` are those of q, then k, then v, as in SAM's
blocks. So the adapters of stage 1 and the integers of stage 2 find ``blocks.N.attn.qkv``,
``attn.proj``, ``mlp.lin1`` and ``mlp.lin2`` as in a SAM.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTHS = (64, 128, 160, 320)
"""Channels of the convolutions and of the three groups of blocks."""

DEPTHS = (2, 6, 2)
HEADS = (4, 5, 10)
WINDOWS = (7, 14, 7)
"""Blocks, attention heads, and side of the attention windows, of each group."""

INPUT_SIZE, GRID_SIZE, NECK_WIDTH = 256, 64, 256


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of (B, C, H, W), SAM's ``LayerNorm2d``."""

    def __init__(self, channels: int) -> None:
        """Start as the identity of normalised values."""
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, values: Tensor) -> Tensor:
        """Normalise each pixel's channels."""
        off = values - values.mean(1, keepdim=True)
        scaled = off / (off.square().mean(1, keepdim=True) + 1e-6).sqrt()
        return scaled * self.weight[:, None, None] + self.bias[:, None, None]


def depthwise(channels: int, stride: int = 1) -> nn.Conv2d:
    """Return a depthwise 3 x 3 convolution."""
    return nn.Conv2d(channels, channels, 3, stride, 1, groups=channels)


class InvertedBottleneck(nn.Module):
    """Widen, convolve depthwise, narrow, add."""

    def __init__(self, channels: int) -> None:
        """Widen four times."""
        super().__init__()
        self.widen = nn.Conv2d(channels, 4 * channels, 1)
        self.depthwise = depthwise(4 * channels)
        self.narrow = nn.Conv2d(4 * channels, channels, 1)

    def forward(self, values: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        wide = functional.gelu(self.depthwise(functional.gelu(self.widen(values))))
        return functional.gelu(values + self.narrow(wide))


class Merge(nn.Module):
    """More channels, and half of the rows and columns or as many."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        """Map ``channels`` to ``out``; a ``stride`` of 2 halves rows and columns."""
        super().__init__()
        self.widen = nn.Conv2d(channels, out, 1)
        self.depthwise = depthwise(out, stride)
        self.mix = nn.Conv2d(out, out, 1)

    def forward(self, values: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, out, H / stride, W / stride)."""
        wide = functional.gelu(self.depthwise(functional.gelu(self.widen(values))))
        mixed: Tensor = self.mix(wide)
        return mixed


class WindowAttention(nn.Module):
    """Attention among the places of a window, with a learned bias for each distance."""

    places: Tensor

    def __init__(self, width: int, heads: int, window: int) -> None:
        """Attend in windows of ``window`` x ``window`` places."""
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.biases = nn.Parameter(torch.zeros(heads, window * window))
        rows, columns = (axis.flatten() for axis in torch.meshgrid(
            torch.arange(window), torch.arange(window), indexing="ij"))  # fmt: skip
        down = (rows[:, None] - rows).abs()
        across = (columns[:, None] - columns).abs()
        self.register_buffer("places", down * window + across, persistent=False)  # (T, T)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map windows (B, T, C) to the same shape."""
        batch, count, width = tokens.shape
        parts = self.qkv(tokens).view(batch, count, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4)  # (B, heads, T, C / heads) each
        bias = self.biases[:, self.places]  # (heads, T, T)
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        out: Tensor = self.proj(mixed.transpose(1, 2).reshape(batch, count, width))
        return out


class Perceptron(nn.Module):
    """Two linear layers, four times as wide between them."""

    def __init__(self, width: int) -> None:
        """Widen four times."""
        super().__init__()
        self.lin1 = nn.Linear(width, 4 * width)
        self.lin2 = nn.Linear(4 * width, width)

    def forward(self, values: Tensor) -> Tensor:
        """Map (..., C) to the same shape."""
        out: Tensor = self.lin2(functional.gelu(self.lin1(values)))
        return out


class WindowBlock(nn.Module):
    """Attention in windows, a convolution of each channel, a perceptron."""

    def __init__(self, width: int, heads: int, window: int) -> None:
        """Attend in windows of ``window`` x ``window`` places."""
        super().__init__()
        self.window = window
        self.norm1 = nn.LayerNorm(width)
        self.attn = WindowAttention(width, heads, window)
        self.local = depthwise(width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Perceptron(width)

    def forward(self, values: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        places = values.permute(0, 2, 3, 1)  # (B, H, W, C)
        values = values + self._attend(places).permute(0, 3, 1, 2)
        places = self.local(values).permute(0, 2, 3, 1)
        mapped: Tensor = places + self.mlp(self.norm2(places))  # (B, H, W, C)
        return mapped.permute(0, 3, 1, 2)

    def _attend(self, places: Tensor) -> Tensor:
        """Attend in windows; the zeros that pad the last windows take part, as in training."""
        batch, height, width, channels = places.shape
        side = self.window
        padded = functional.pad(places, (0, 0, 0, -width % side, 0, -height % side))
        down, across = padded.shape[1] // side, padded.shape[2] // side
        windows = padded.view(batch, down, side, across, side, channels).transpose(2, 3)
        tokens = self.norm1(windows.reshape(-1, side * side, channels))
        mixed = self.attn(tokens).view(batch, down, across, side, side, channels)
        whole: Tensor = mixed.transpose(2, 3).reshape(padded.shape)
        return whole[:, :height, :width]


class TinyViT(nn.Module):
    """LiteMedSAM's image encoder, an ``image_encoder`` of `model_store.sam.PromptableSam`."""

    def __init__(self) -> None:
        """Build it with random weights."""
        super().__init__()
        first = WIDTHS[0]
        self.embed = nn.Sequential(
            nn.Conv2d(3, first // 2, 1), nn.GELU(), nn.Conv2d(first // 2, first, 1)
        )
        self.convolutions = nn.Sequential(InvertedBottleneck(first), InvertedBottleneck(first))
        strides = (2, 2, 1)  # 256 px to 128, 64 and 64 places
        self.merges = nn.ModuleList(map(Merge, WIDTHS[:-1], WIDTHS[1:], strides))
        self.blocks = nn.ModuleList(
            WindowBlock(*sizes)
            for depth, *sizes in zip(DEPTHS, WIDTHS[1:], HEADS, WINDOWS, strict=True)
            for _ in range(depth)
        )
        self.neck = nn.Sequential(
            nn.Conv2d(WIDTHS[-1], NECK_WIDTH, 1, bias=False), ChannelNorm(NECK_WIDTH),
            nn.Conv2d(NECK_WIDTH, NECK_WIDTH, 3, padding=1, bias=False), ChannelNorm(NECK_WIDTH),
        )  # fmt: skip

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images (B, 3, 256, 256) to embeddings (B, 256, 64, 64)."""
        values = self.convolutions(self.embed(images))
        blocks = iter(self.blocks)
        for merge, depth in zip(self.merges, DEPTHS, strict=True):
            values = merge(values)
            for _ in range(depth):
                values = next(blocks)(values)
        embedding: Tensor = self.neck(values)
        return embedding
