"""Compare every kernel with its definition in plain PyTorch, on random and on extreme values.

The same checks run in three places: in the tests, through Triton's interpreter on the CPU; in the
benchmark, on the GPU; and when a model is loaded onto a GPU, because a wrong driver or compiler
must be noticed before a mask is predicted. Integers must be equal to the bit; so must everything
that is only multiplied, added and rounded. Where a kernel sums floats in another order (LayerNorm,
attention) or has another ``erf`` or ``exp``, a few steps may differ by one; a constant here limits
their share.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_store.engine.kernels.attention import AttentionGrid, attention
from model_store.engine.kernels.layer_norm import layer_norm
from model_store.engine.kernels.matrix import TILES, Tile, int8_accumulate, int8_matrix
from model_store.engine.kernels.quantize import quantize
from model_store.engine.token_windows import window_source_rows
from model_store.integers import (
    WEIGHT_LIMIT,
    ZERO_POINT,
    dequantize_accumulator,
    quantize_activation,
    reference_accumulate,
)

LARGEST_SHARE_OFF_BY_ONE = 2e-3
"""Share of int8 steps that may differ by one where floats are summed in another order."""

FLOAT16_TOLERANCE, FLOAT32_TOLERANCE = 4e-3, 2e-5
"""Largest absolute error of attention on values of order 1."""

SHAPES = ((1, 8, 8), (7, 128, 64), (130, 192, 200), (64, 1152, 128), (33, 2080, 17))
"""Rows, terms and columns of products; only one is a multiple of a tile."""

SMALL_GRIDS = ((16, 5, 0), (32, 6, 4), (64, 4, 0))
"""Head width, grid size and window size (0: none) of attention."""

LARGE_SHAPES = ((4096, 768, 2304), (4900, 3072, 768), (513, 2304, 256))
"""The products of a ViT-B, for a GPU."""


@dataclass(frozen=True)
class KernelCheck:
    """Outcome of one check.

    Attributes:
        name: Kernel and case.
        passed: Whether it computes its definition.
        detail: What was measured, or the error.
    """

    name: str
    passed: bool
    detail: str


def check_kernels(
    device: torch.device,
    shapes: Iterable[tuple[int, int, int]] = SHAPES,
    tiles: Iterable[Tile | None] = (None,),
    grids: Iterable[tuple[int, int, int]] | None = None,
) -> list[KernelCheck]:
    """Run every kernel on ``device`` and compare.

    Args:
        device: ``cuda``, or ``cpu`` under Triton's interpreter.
        shapes: Rows, terms and columns of the products.
        tiles: Tiles of the products; None stands for the tile chosen by size.
        grids: Head width, grid size and window size (0: none) of attention.

    Returns:
        One outcome per kernel and case; a kernel that raises is a failed one.
    """
    checks: list[tuple[str, Callable[[], tuple[bool, str]]]] = [
        ("quantize", lambda: _check_quantize(device)),
        ("layer_norm", lambda: _check_layer_norm(device)),
    ]
    tile_list = list(tiles)
    for shape in shapes:
        for pattern in ("random", "extremes"):
            checks += [
                (f"accumulate {shape} {pattern} {tile or 'chosen tile'}",
                 lambda s=shape, p=pattern, t=tile: _check_accumulate(device, s, p, t))  # type: ignore[misc]
                for tile in tile_list
            ]  # fmt: skip
        checks.append((f"epilogues {shape}", lambda s=shape: _check_epilogues(device, s)))  # type: ignore[misc]
    for head, side, window in SMALL_GRIDS if grids is None else grids:
        for dtype in (torch.float32, torch.float16):
            checks.append(
                (f"attention head {head}, grid {side}, window {window}, {dtype}",
                 lambda h=head, s=side, w=window, d=dtype: _check_attention(device, h, s, w, d))  # type: ignore[misc]
            )  # fmt: skip
    return [_outcome(name, check) for name, check in checks]


def check_everything(device: torch.device) -> list[KernelCheck]:
    """Run every tile on every shape, those of a ViT-B included; for a GPU."""
    return check_kernels(
        device,
        shapes=(*SHAPES, *LARGE_SHAPES),
        tiles=(None, *TILES),
        grids=((32, 16, 0), (32, 24, 12), (64, 32, 14), (64, 64, 14), (64, 64, 0), (80, 16, 14)),
    )


def _outcome(name: str, check: Callable[[], tuple[bool, str]]) -> KernelCheck:
    try:
        passed, detail = check()
    except Exception as error:  # any error of a compiler or driver is a failed kernel
        last = traceback.extract_tb(error.__traceback__)[-1]
        first_line = (str(error).splitlines() or [""])[0]
        place = f"{last.name}, line {last.lineno}"
        return KernelCheck(name, False, f"{type(error).__name__}: {first_line} ({place})")
    return KernelCheck(name, passed, detail)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_integers(shape: tuple[int, int, int], pattern: str) -> tuple[Tensor, Tensor]:
    """Return uint8 activations (M, K) and int8 weights (N, K); extremes reach every limit."""
    rows, terms, columns = shape
    generator = _generator(rows * terms)
    activation = torch.randint(0, 256, (rows, terms), generator=generator, dtype=torch.uint8)
    weight = torch.randint(
        -WEIGHT_LIMIT, WEIGHT_LIMIT + 1, (columns, terms), generator=generator, dtype=torch.int8
    )
    if pattern == "extremes":
        activation[0::2], activation[1::2] = 255, 0
        weight[0::2], weight[1::2] = WEIGHT_LIMIT, -WEIGHT_LIMIT
    return activation, weight


def _exact_product(activation: Tensor, weight: Tensor, device: torch.device) -> Tensor:
    """Return the reference's accumulators; float64 sums them exactly, fast on a GPU too."""
    if activation.numel() * weight.shape[0] < 2**24:
        return reference_accumulate(activation, weight).to(device)
    steps = activation.to(device, torch.float64) - ZERO_POINT
    return (steps @ weight.to(device, torch.float64).T).long()


def _signed(activation: Tensor, device: torch.device) -> Tensor:
    return (activation.to(torch.int16) - ZERO_POINT).to(torch.int8).to(device)


def _check_accumulate(
    device: torch.device, shape: tuple[int, int, int], pattern: str, tile: Tile | None
) -> tuple[bool, str]:
    activation, weight = make_integers(shape, pattern)
    got = int8_accumulate(_signed(activation, device), weight.to(device), tile).long()
    error = int((got - _exact_product(activation, weight, device)).abs().max())
    return error == 0, f"largest error {error}"


def _check_epilogues(device: torch.device, shape: tuple[int, int, int]) -> tuple[bool, str]:
    activation, weight = make_integers(shape, "random")
    rows, terms, columns = shape
    generator = _generator(terms)
    step = torch.tensor(0.02, device=device)
    weight_scale = (torch.rand(columns, generator=generator) * 0.02 / terms**0.5).to(device)
    bias = torch.randn(columns, generator=generator).to(device)
    residual = torch.randn(rows, columns, generator=generator).to(device)
    accumulator = _exact_product(activation, weight, device)
    plain = dequantize_accumulator(accumulator, step, weight_scale, bias)
    steps, weight, scale = _signed(activation, device), weight.to(device), step * weight_scale
    unequal = int((int8_matrix(steps, weight, scale, bias) != plain).sum())
    added = int8_matrix(steps, weight, scale, bias, residual=residual)
    unequal += int((added != residual + plain).sum())
    without_bias = dequantize_accumulator(accumulator, step, weight_scale, None)
    unequal += int((int8_matrix(steps, weight, scale, None) != without_bias).sum())
    wanted = quantize_activation(functional.gelu(plain), step).int() - ZERO_POINT
    got = int8_matrix(steps, weight, scale, bias, gelu=True, step=step).int()
    passed, detail = _almost_equal_steps(got, wanted)
    return passed and unequal == 0, f"{unequal} floats differ; GELU {detail}"


def _check_quantize(device: torch.device) -> tuple[bool, str]:
    step = torch.tensor(0.037)
    ties = (torch.arange(-140, 141) + 0.5) * 0.25
    values = torch.cat([torch.randn(5000, generator=_generator(1)) * 3, ties, ties * 1e6])
    unequal = 0
    for scale in (step, torch.tensor(0.25), torch.tensor(1e-6)):
        wanted = quantize_activation(values, scale).int() - ZERO_POINT
        got = quantize(values.to(device), scale.to(device)).int().cpu()
        unequal += int((got != wanted).sum())
    return unequal == 0, f"{unequal} steps differ"


def _check_layer_norm(device: torch.device) -> tuple[bool, str]:
    passed, details = True, []
    for columns in (32, 192, 768, 1280):
        norm = nn.LayerNorm(columns, eps=1e-6).requires_grad_(False)
        norm.weight.normal_(1.0, 0.2, generator=_generator(2))
        norm.bias.normal_(0.0, 0.2, generator=_generator(3))
        values = torch.randn(67, columns, generator=_generator(4)) * 5 + 2
        values[0], values[1] = 3.0, 1e4 * values[1]
        step, wanted = torch.tensor(0.03), norm(values)
        on_device = norm.to(device)
        got = layer_norm(values.to(device), on_device, step.to(device)).int().cpu()
        steps_passed, detail = _almost_equal_steps(
            got, quantize_activation(wanted, step).int() - ZERO_POINT
        )
        floats = layer_norm(values.to(device), on_device, None).cpu()
        error = float((floats - wanted).abs().max())
        passed = passed and steps_passed and error < 1e-4
        details.append(f"{columns}: {detail}, float error {error:.1e}")
    return passed, "; ".join(details)


def _check_attention(
    device: torch.device, head: int, side: int, window: int, dtype: torch.dtype
) -> tuple[bool, str]:
    heads, images = 2, 1 if side >= 32 else 2
    generator = _generator(head + side)
    channels, rows = heads * head, images * side * side
    group = window or side
    qkv = torch.randn(rows + 1, 3 * channels, generator=generator)
    tables = [torch.randn(2 * group - 1, head, generator=generator) * 0.2 for _ in range(2)]
    qkv, table_y, table_x = (tensor.to(device, dtype) for tensor in (qkv, *tables))
    source = window_source_rows(images, side, window).to(device) if window else None
    wanted = _plain_attention(qkv.double(), table_y.double(), table_x.double(), heads, group,
                              rows, source)  # fmt: skip
    grid = AttentionGrid(heads, head, group, group)
    step = torch.tensor(0.02, device=device)
    floats = attention(qkv, table_y, table_x, grid, rows=rows, source_rows=source)
    steps = attention(qkv, table_y, table_x, grid, rows=rows, source_rows=source, step=step)
    error = float((floats.double() - wanted).abs().max())
    tolerance = FLOAT32_TOLERANCE if dtype == torch.float32 else FLOAT16_TOLERANCE
    # The quantized result must equal the kernel's own floats, quantized.
    unequal = int((steps.int() != quantize_activation(floats, step).int() - ZERO_POINT).sum())
    return error <= tolerance and unequal == 0, f"error {error:.1e}, {unequal} steps differ"


def _plain_attention(
    qkv: Tensor,
    table_y: Tensor,
    table_x: Tensor,
    heads: int,
    side: int,
    rows: int,
    source: Tensor | None,
) -> Tensor:
    """Return SAM's attention, written out, (rows, C), in the precision of ``qkv``."""
    device = qkv.device
    chosen = torch.arange(rows, device=device) if source is None else source.long()
    groups, tokens = chosen.numel() // side**2, side**2
    q, k, v = qkv[chosen].view(groups, tokens, 3, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
    line = torch.arange(side, device=device)
    distance = line[:, None] - line[None, :] + side - 1  # (side, side), query first
    squares = q.reshape(groups, heads, side, side, -1)  # (groups, heads, y, x, head)
    score_y = torch.einsum("ghyxc,ykc->ghyxk", squares, table_y[distance])
    score_x = torch.einsum("ghyxc,xkc->ghyxk", squares, table_x[distance])
    bias = score_y[..., :, None] + score_x[..., None, :]
    score = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    score += bias.reshape(groups, heads, tokens, tokens)
    mixed = (score.softmax(-1) @ v).transpose(1, 2).reshape(groups * tokens, -1)
    output = torch.zeros(rows + 1, mixed.shape[1], dtype=mixed.dtype, device=device)
    output[chosen] = mixed
    return output[:rows]


def _almost_equal_steps(got: Tensor, wanted: Tensor) -> tuple[bool, str]:
    difference = (got - wanted).abs()
    share = float((difference > 0).float().mean())
    largest = int(difference.max())
    allowed = largest <= 1 and share <= max(LARGEST_SHARE_OFF_BY_ONE, 1.5 / difference.numel())
    return allowed, f"{share:.1e} of the steps differ, by at most {largest}"
