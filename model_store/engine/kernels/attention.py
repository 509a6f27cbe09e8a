"""Attention with SAM's decomposed relative positions, in one pass over the keys.

SAM adds ``q . Rh[y - y'] + q . Rw[x - x']`` to every score. The two products depend on a key's row
and column only, so they are computed once per query as two short tables (``position_scores``) and
added tile by tile. The N x N bias never exists. A tile of keys holds whole rows of the grid, padded
to a power of two in width. Windows need no copies either: a table gives the row of each token of a
window. Tokens beyond the image's edge read the last row, which has the outputs of the q, k and v
layers for 0.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from model_store.engine.kernels.rounding import to_steps
from model_store.engine.kernels.tuned_tiles import tuned_tiles

_LOG2_E = tl.constexpr(1.4426950408889634)

_MANY_TOKENS, _MANY_TOKENS_BLOCK = 1024, 16
"""On a grid of 64 x 64, small blocks of queries were faster on an H200. In windows of 14 x 14,
larger blocks were faster."""


@dataclass(frozen=True)
class AttentionGrid:
    """Sizes of one attention layer.

    Attributes:
        height: Rows of tokens in one window, or in the image.
        width: Tokens in one such row.
    """

    heads: int
    head_width: int
    height: int
    width: int

    @property
    def tokens(self) -> int:
        """Tokens that attend to each other."""
        return self.height * self.width


@dataclass(frozen=True)
class AttentionTile:
    """How the work is divided, and how float32 is multiplied.

    Attributes:
        queries: Queries per program.
        keys: Keys per step; at least one row of the grid is taken.
        warps: Warps per program.
        stages: Depth of the software pipeline.
        precision: ``tf32x3``, three products of shortened numbers on tensor cores that together
            are as exact as float32, or ``ieee``, without them. No effect on float16.
    """

    queries: int
    keys: int
    warps: int
    stages: int
    precision: str = "tf32x3"


@triton.jit
def _position_scores_kernel(
    qkv, source_rows, table_y, table_x, scores_y, scores_x, tokens, channels,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, HEAD: tl.constexpr, HEAD_BLOCK: tl.constexpr,
    TABLE_Y: tl.constexpr, TABLE_X: tl.constexpr, GATHER: tl.constexpr, BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    query = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    head, group = tl.program_id(1), tl.program_id(2)
    inside = query < tokens
    lane = tl.arange(0, HEAD_BLOCK)
    row = group.to(tl.int64) * tokens + query
    if GATHER:
        row = tl.load(source_rows + row, mask=inside, other=0).to(tl.int64)
    place = row[:, None] * (3 * channels) + head * HEAD + lane[None, :]
    loaded = inside[:, None] & (lane < HEAD)[None, :]
    q = tl.load(qkv + place, mask=loaded, other=0.0)

    group_head = group.to(tl.int64) * tl.num_programs(1) + head
    entry = tl.arange(0, TABLE_Y)
    known = (entry < 2 * HEIGHT - 1)[None, :] & (lane < HEAD)[:, None]
    table = tl.load(table_y + entry[None, :] * HEAD + lane[:, None], mask=known, other=0.0)
    product = tl.dot(q, table, input_precision=PRECISION) * _LOG2_E
    key = (query // WIDTH)[:, None] + HEIGHT - 1 - entry[None, :]
    kept = inside[:, None] & (key >= 0) & (key < HEIGHT)
    tl.store(scores_y + (group_head * HEIGHT + key) * tokens + query[:, None], product, mask=kept)

    entry = tl.arange(0, TABLE_X)
    known = (entry < 2 * WIDTH - 1)[None, :] & (lane < HEAD)[:, None]
    table = tl.load(table_x + entry[None, :] * HEAD + lane[:, None], mask=known, other=0.0)
    product = tl.dot(q, table, input_precision=PRECISION) * _LOG2_E
    key = (query % WIDTH)[:, None] + WIDTH - 1 - entry[None, :]
    kept = inside[:, None] & (key >= 0) & (key < WIDTH)
    place = (group_head * tokens + query)[:, None] * WIDTH + key
    tl.store(scores_x + place, product, mask=kept)


@triton.jit
def _attention_kernel(
    qkv, source_rows, scores_y, scores_x, step, output, tokens, channels, last_row, scale,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, HEAD: tl.constexpr, HEAD_BLOCK: tl.constexpr,
    KEY_COLUMNS: tl.constexpr, KEY_ROWS: tl.constexpr, GATHER: tl.constexpr,
    PADDED: tl.constexpr, QUANTIZE: tl.constexpr, BLOCK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    query = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    head, group = tl.program_id(1), tl.program_id(2)
    inside = query < tokens
    lane = tl.arange(0, HEAD_BLOCK)
    known_lane = lane < HEAD
    group_first = group.to(tl.int64) * tokens
    query_row = group_first + query
    if GATHER:
        query_row = tl.load(source_rows + query_row, mask=inside, other=0).to(tl.int64)
    head_first = head * HEAD
    q = tl.load(
        qkv + query_row[:, None] * (3 * channels) + head_first + lane[None, :],
        mask=inside[:, None] & known_lane[None, :], other=0.0,
    )  # fmt: skip

    key = tl.arange(0, KEY_ROWS * KEY_COLUMNS)
    key_y, key_x = key // KEY_COLUMNS, key % KEY_COLUMNS
    group_head = group.to(tl.int64) * tl.num_programs(1) + head
    # Padding columns get no weight, whatever is added to this.
    bias_x = tl.load(
        scores_x + (group_head * tokens + query)[:, None] * WIDTH + key_x[None, :],
        mask=inside[:, None] & (key_x < WIDTH)[None, :], other=float("-inf"),
    )  # fmt: skip
    bias_x = tl.where(inside[:, None], bias_x, 0.0)
    bias_y_place = scores_y + group_head * HEIGHT * tokens + query
    largest = tl.full((BLOCK,), float("-inf"), dtype=tl.float32)
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    mixed = tl.zeros((BLOCK, HEAD_BLOCK), dtype=tl.float32)
    for first_y in range(0, HEIGHT, KEY_ROWS):
        y = first_y + key_y
        key_row = group_first + y * WIDTH + key_x
        known_key = key_x < KEY_COLUMNS  # all of them
        if PADDED:
            known_key = (y < HEIGHT) & (key_x < WIDTH)
        if GATHER:
            key_row = tl.load(source_rows + key_row, mask=known_key, other=0).to(tl.int64)
        key_place = key_row * (3 * channels) + head_first
        k_place = qkv + channels + key_place[None, :] + lane[:, None]
        v_place = qkv + 2 * channels + key_place[:, None] + lane[None, :]
        if PADDED:
            k = tl.load(k_place, mask=known_key[None, :] & known_lane[:, None], other=0.0)
            v = tl.load(v_place, mask=known_key[:, None] & known_lane[None, :], other=0.0)
        else:
            k = tl.load(k_place)
            v = tl.load(v_place)
        score = tl.dot(q, k, input_precision=PRECISION) * scale + bias_x
        if KEY_ROWS == 1:  # one number per query: it need not be added to every score
            bias_y = tl.load(bias_y_place + first_y * tokens, mask=inside, other=0.0)
            new_largest = tl.maximum(largest, tl.max(score, axis=1) + bias_y)
            share = tl.exp2(score - (new_largest - bias_y)[:, None])
        else:
            bias_y = tl.load(
                bias_y_place[:, None] + (y * tokens)[None, :],
                mask=inside[:, None] & (y < HEIGHT)[None, :], other=0.0,
            )  # fmt: skip
            score += bias_y
            if PADDED:
                score = tl.where(known_key[None, :], score, float("-inf"))
            new_largest = tl.maximum(largest, tl.max(score, axis=1))
            share = tl.exp2(score - new_largest[:, None])
        shrink = tl.exp2(largest - new_largest)
        total = total * shrink + tl.sum(share, axis=1)
        mixed = mixed * shrink[:, None]
        mixed = tl.dot(share.to(v.dtype), v, mixed, input_precision=PRECISION)
        largest = new_largest

    result = tl.math.div_rn(mixed, tl.broadcast_to(total[:, None], (BLOCK, HEAD_BLOCK)))
    place = query_row[:, None] * channels + head_first + lane[None, :]
    stored = (inside & (query_row < last_row))[:, None] & known_lane[None, :]
    if QUANTIZE:
        tl.store(output + place, to_steps(result, tl.load(step)), mask=stored)
    else:
        tl.store(output + place, result, mask=stored)


def position_scores(
    qkv: Tensor,
    source_rows: Tensor | None,
    table_y: Tensor,
    table_x: Tensor,
    groups: int,
    grid: AttentionGrid,
    precision: str,
) -> tuple[Tensor, Tensor]:
    """Multiply every query by the relative positions of its row and of its column.

    Returns:
        float32 (groups * heads * height, tokens) and (groups * heads * tokens, width), in units
        of log 2; each lies as the attention kernel reads it.
    """
    rows = groups * grid.heads * grid.tokens
    height_rows = groups * grid.heads * grid.height
    scores_y = torch.empty((height_rows, grid.tokens), dtype=torch.float32, device=qkv.device)
    scores_x = torch.empty((rows, grid.width), dtype=torch.float32, device=qkv.device)
    block = _MANY_TOKENS_BLOCK if grid.tokens >= _MANY_TOKENS else 64
    _position_scores_kernel[(triton.cdiv(grid.tokens, block), grid.heads, groups)](
        qkv, qkv if source_rows is None else source_rows, table_y, table_x, scores_y, scores_x,
        grid.tokens, grid.heads * grid.head_width,
        HEIGHT=grid.height, WIDTH=grid.width, HEAD=grid.head_width,
        HEAD_BLOCK=_block_of(grid.head_width), TABLE_Y=_block_of(2 * grid.height - 1),
        TABLE_X=_block_of(2 * grid.width - 1), GATHER=source_rows is not None, BLOCK=block,
        PRECISION=precision, num_warps=4, enable_fp_fusion=False,
    )  # fmt: skip
    return scores_y, scores_x


def attention(
    qkv: Tensor,
    table_y: Tensor,
    table_x: Tensor,
    grid: AttentionGrid,
    *,
    rows: int,
    source_rows: Tensor | None = None,
    step: Tensor | None = None,
    tile: AttentionTile | None = None,
) -> Tensor:
    """Attend within each group of tokens (a window, or an image).

    Args:
        qkv: float16 or float32 (rows or rows + 1, 3 * C); with ``source_rows`` the last row is
            what tokens outside the image hold.
        table_y: Relative positions of rows, dtype of ``qkv``, (2 * height - 1, head).
        table_x: Relative positions of columns, dtype of ``qkv``, (2 * width - 1, head).
        grid: Sizes of a group.
        rows: Tokens of all images together.
        source_rows: Row of ``qkv`` of each token of each group, int32 (groups * tokens,); ``rows``
            for tokens outside the image. None: groups lie one after the other.
        step: Activation scale of the next layer; the result is int8 steps. None: float32.
        tile: How to cut the work; None chooses by size.

    Returns:
        (rows, C), in the order of ``qkv``.
    """
    channels = grid.heads * grid.head_width
    groups = (rows if source_rows is None else source_rows.numel()) // grid.tokens
    tile = tile or choose_attention_tile(grid, qkv.dtype)
    scores_y, scores_x = position_scores(
        qkv, source_rows, table_y, table_x, groups, grid, tile.precision
    )
    kind = torch.float32 if step is None else torch.int8
    output = torch.empty((rows, channels), dtype=kind, device=qkv.device)
    key_columns = _block_of(grid.width)
    key_rows = max(1, tile.keys // key_columns)
    head_block = _block_of(grid.head_width)
    padded = (
        key_columns != grid.width or grid.height % key_rows != 0 or head_block != grid.head_width
    )
    _attention_kernel[(triton.cdiv(grid.tokens, tile.queries), grid.heads, groups)](
        qkv, qkv if source_rows is None else source_rows, scores_y, scores_x,
        qkv if step is None else step, output, grid.tokens, channels, rows,
        grid.head_width**-0.5 * 1.4426950408889634,
        HEIGHT=grid.height, WIDTH=grid.width, HEAD=grid.head_width,
        HEAD_BLOCK=head_block, KEY_COLUMNS=key_columns,
        KEY_ROWS=key_rows, GATHER=source_rows is not None, PADDED=padded,
        QUANTIZE=step is not None, BLOCK=tile.queries, PRECISION=tile.precision,
        num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    return output


def choose_attention_tile(grid: AttentionGrid, dtype: torch.dtype) -> AttentionTile:
    """Return the tile that was measured to be fast, or one by size."""
    tuned = tuned_tiles().attention.get(
        (grid.height, grid.width, grid.head_width, str(dtype).removeprefix("torch."))
    )
    if tuned is not None:
        return AttentionTile(*tuned)
    if dtype == torch.float32:
        return AttentionTile(queries=32, keys=32, warps=4, stages=2)
    if grid.tokens >= _MANY_TOKENS:
        return AttentionTile(queries=128, keys=64, warps=8, stages=3)
    return AttentionTile(queries=64, keys=64, warps=4, stages=2)


def _block_of(size: int) -> int:
    """Return the power of two that a tile needs for ``size``; products take at least 16."""
    return max(16, int(triton.next_power_of_2(size)))
