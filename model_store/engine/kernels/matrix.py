"""The int8 matrix product with int32 accumulators, fused with the operations that follow it.

One kernel serves every integer layer: dequantize and add the bias, then optionally GELU and
requantization for the next layer, or the residual. The accumulators are sums of integers and
therefore equal to the reference in any order, so tiles may be chosen for speed alone.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from model_store.engine.kernels.error_function import error_function
from model_store.engine.kernels.rounding import to_steps
from model_store.engine.kernels.tuned_tiles import tuned_tiles


@dataclass(frozen=True)
class Tile:
    """The part of a product that one program computes.

    Attributes:
        rows: Rows of the output per program.
        columns: Columns of the output per program.
        terms: Terms that are added per step.
        warps: Warps per program.
        stages: Depth of the software pipeline.
    """

    rows: int
    columns: int
    terms: int
    warps: int
    stages: int


TILES = (
    Tile(128, 256, 128, 8, 3),
    Tile(128, 128, 128, 8, 4),
    Tile(128, 64, 128, 4, 4),
    Tile(64, 64, 128, 4, 4),
    Tile(64, 32, 128, 4, 4),
    Tile(32, 32, 64, 2, 4),
)
"""Tiles from large to small; the first that gives every multiprocessor work is used."""

_ROW_GROUP = tl.constexpr(8)  # neighbouring programs share weights in the L2 cache


@triton.jit
def _int8_matrix_kernel(
    activation, weight, scale, bias, residual, step, output, rows, columns, residual_rows,
    TERMS: tl.constexpr, STORE: tl.constexpr, HAS_BIAS: tl.constexpr, GELU: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    EVEN_TERMS: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
    BLOCK_TERMS: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    row_blocks = tl.cdiv(rows, BLOCK_ROWS)
    group_size = _ROW_GROUP * tl.cdiv(columns, BLOCK_COLUMNS)
    first_block = (program // group_size) * _ROW_GROUP
    group_height = tl.minimum(row_blocks - first_block, _ROW_GROUP)
    row_block = first_block + (program % group_size) % group_height
    column_block = (program % group_size) // group_height

    row = row_block * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    column = column_block * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    term = tl.arange(0, BLOCK_TERMS)
    # Rows and columns past the end repeat others; they are computed and not stored.
    activation_place = activation + (row % rows).to(tl.int64)[:, None] * TERMS + term[None, :]
    weight_place = weight + (column % columns)[None, :] * TERMS + term[:, None]
    accumulator = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), dtype=tl.int32)
    for start in range(0, TERMS, BLOCK_TERMS):
        if EVEN_TERMS:
            left = tl.load(activation_place)
            right = tl.load(weight_place)
        else:
            left = tl.load(activation_place, mask=term[None, :] < TERMS - start, other=0)
            right = tl.load(weight_place, mask=term[:, None] < TERMS - start, other=0)
        accumulator = tl.dot(left, right, accumulator, out_dtype=tl.int32)
        activation_place += BLOCK_TERMS
        weight_place += BLOCK_TERMS

    inside = (row < rows)[:, None] & (column < columns)[None, :]
    place = row.to(tl.int64)[:, None] * columns + column[None, :]
    if STORE == "integers":
        tl.store(output + place, accumulator, mask=inside)
    else:
        column_scale = tl.load(scale + column, mask=column < columns, other=0.0)
        value = accumulator.to(tl.float32) * column_scale[None, :]
        if HAS_BIAS:
            value += tl.load(bias + column, mask=column < columns, other=0.0)[None, :]
        if GELU:
            value = value * 0.5 * (1.0 + error_function(value * 0.7071067811865476))
        if HAS_RESIDUAL:
            other = (row % residual_rows).to(tl.int64)[:, None] * columns + column[None, :]
            value = tl.load(residual + other, mask=inside, other=0.0) + value
        if STORE == "steps":
            tl.store(output + place, to_steps(value, tl.load(step)), mask=inside)
        else:
            tl.store(output + place, value.to(output.dtype.element_ty), mask=inside)


def choose_tile(rows: int, terms: int, columns: int, multiprocessors: int) -> Tile:
    """Return the tile that was measured to be fast for this product, or one by a rule.

    The rule: the largest tile that still divides an output (rows, columns) into enough programs.
    """
    tuned = tuned_tiles().product(rows, terms, columns)
    if tuned is not None:
        return Tile(*tuned)
    for tile in TILES:
        programs = triton.cdiv(rows, tile.rows) * triton.cdiv(columns, tile.columns)
        if programs >= multiprocessors:
            return tile
    return TILES[-1]


def multiprocessors_of(device: torch.device) -> int:
    """Return how many programs a device runs side by side; 1 for the interpreter on a CPU."""
    if device.type != "cuda":
        return 1
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def int8_accumulate(activation: Tensor, weight: Tensor, tile: Tile | None = None) -> Tensor:
    """Multiply int8 steps (M, K) by an int8 weight (N, K) to int32 accumulators (M, N)."""
    output = _empty(activation, weight, torch.int32)
    _start(activation, weight, output, tile, store="integers")
    return output


def int8_matrix(
    activation: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    *,
    output: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    gelu: bool = False,
    residual: Tensor | None = None,
    step: Tensor | None = None,
    tile: Tile | None = None,
) -> Tensor:
    """Multiply, dequantize, and apply the operations that follow, in one kernel.

    Args:
        activation: int8 steps (M, K), contiguous.
        weight: int8 (N, K), contiguous.
        scale: float32 (N,), activation scale times weight scale.
        bias: float32 (N,) or None.
        output: Where to write, (M, N) contiguous; None makes a tensor of ``dtype``.
        dtype: float32 or float16; ignored with ``output`` or ``step``.
        gelu: Whether to apply the exact GELU, by the error function.
        residual: float32 (R, N) that is added, row by row modulo R.
        step: Activation scale of the next layer; the result is int8 steps.
        tile: How to cut the work; None chooses by size.

    Returns:
        (M, N) of ``dtype``, or int8 when ``step`` is given.
    """
    if output is None:
        output = _empty(activation, weight, torch.int8 if step is not None else dtype)
    _start(
        activation, weight, output, tile, store="floats" if step is None else "steps",
        scale=scale, bias=bias, gelu=gelu, residual=residual, step=step,
    )  # fmt: skip
    return output


def _empty(activation: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
    shape = (activation.shape[0], weight.shape[0])
    return torch.empty(shape, dtype=dtype, device=activation.device)


def _start(
    activation: Tensor,
    weight: Tensor,
    output: Tensor,
    tile: Tile | None,
    *,
    store: str,
    scale: Tensor | None = None,
    bias: Tensor | None = None,
    gelu: bool = False,
    residual: Tensor | None = None,
    step: Tensor | None = None,
) -> None:
    rows, terms = activation.shape
    columns = weight.shape[0]
    tile = tile or choose_tile(rows, terms, columns, multiprocessors_of(activation.device))
    grid = (triton.cdiv(rows, tile.rows) * triton.cdiv(columns, tile.columns),)
    unused = activation  # a pointer that the kernel never follows
    _int8_matrix_kernel[grid](
        activation, weight, unused if scale is None else scale, unused if bias is None else bias,
        unused if residual is None else residual, unused if step is None else step, output,
        rows, columns, rows if residual is None else residual.shape[0],
        TERMS=terms, STORE=store, HAS_BIAS=bias is not None, GELU=gelu,
        HAS_RESIDUAL=residual is not None,
        EVEN_TERMS=terms % tile.terms == 0, BLOCK_ROWS=tile.rows, BLOCK_COLUMNS=tile.columns,
        BLOCK_TERMS=tile.terms, num_warps=tile.warps, num_stages=tile.stages,
        enable_fp_fusion=False,
    )  # fmt: skip
