"""Find the fastest tile for each product and attention layer of ViT-B on this GPU."""

from __future__ import annotations

import time
from typing import Any

import torch
import triton

from model_store.engine.kernels.attention import AttentionGrid, AttentionTile, attention
from model_store.engine.kernels.matrix import Tile, int8_accumulate, int8_matrix
from model_store.engine.kernels.tuned_tiles import AttentionKey, ProductTile
from model_store.engine.token_windows import window_source_rows

LAYERS = ((768, 2304, "half"), (768, 768, "residual"), (768, 3072, "gelu"), (3072, 768, "residual"))
"""Terms, columns and epilogue of ViT-B's four products."""

PRODUCT_TILES = (
    Tile(128, 256, 128, 8, 3), Tile(128, 128, 128, 8, 3), Tile(128, 128, 128, 4, 3),
    Tile(128, 128, 64, 4, 4), Tile(256, 128, 128, 8, 3), Tile(64, 128, 128, 4, 4),
    Tile(128, 64, 128, 4, 4), Tile(128, 64, 64, 4, 4), Tile(64, 64, 128, 4, 4),
)  # fmt: skip

ATTENTION_TILES = (
    AttentionTile(128, 64, 8, 3), AttentionTile(128, 64, 4, 3), AttentionTile(64, 64, 4, 3),
    AttentionTile(128, 128, 8, 2), AttentionTile(64, 64, 4, 2), AttentionTile(128, 64, 8, 2),
    AttentionTile(128, 64, 4, 2), AttentionTile(128, 64, 8, 4), AttentionTile(128, 32, 4, 3),
    AttentionTile(32, 64, 4, 2),
)  # fmt: skip


def milliseconds(call: Any) -> float:
    """Return the median time of a call on the GPU, without Python's launch time."""
    return float(triton.testing.do_bench_cudagraph(call, rep=20, return_mode="median"))


def tune_products(device: torch.device, budget_s: float) -> dict[str, Any]:
    """Time every tile with its epilogue, and cuBLAS's product without one."""
    end, times = time.monotonic() + budget_s, list[Any]()
    table: dict[tuple[int, int], dict[int, ProductTile]] = {}
    for rows in (32768, 4096):
        for terms, columns, kind in LAYERS:
            steps = torch.randint(-128, 128, (rows, terms), device=device, dtype=torch.int8)
            weight = torch.randint(-63, 64, (columns, terms), device=device, dtype=torch.int8)
            wanted = torch._int_mm(steps, weight.T)
            bare = milliseconds(lambda a=steps, w=weight: torch._int_mm(a, w.T))
            scale, bias = torch.full((columns,), 1e-5, device=device), torch.zeros(columns)
            options: dict[str, Any] = {"dtype": torch.float16}
            if kind == "residual":
                options = {"residual": torch.randn(rows, columns, device=device)}
            elif kind == "gelu":
                options = {"gelu": True, "step": torch.tensor(0.02, device=device)}
            operands = (steps, weight, scale, bias.to(device))
            measured: dict[Tile, float] = {}
            for tile in PRODUCT_TILES:
                if time.monotonic() > end:
                    break
                try:
                    if not torch.equal(int8_accumulate(steps, weight, tile), wanted):
                        times.append([rows, terms, columns, str(tile), "WRONG"])
                        continue
                    measured[tile] = milliseconds(
                        lambda o=operands, t=tile, k=options: int8_matrix(*o, tile=t, **k)
                    )
                except Exception as error:  # tiles that do not fit this GPU are skipped
                    times.append([rows, terms, columns, str(tile), str(error)[:80]])
            times.append([rows, terms, columns, kind, {"_int_mm": bare}, {
                str((t.rows, t.columns, t.terms, t.warps, t.stages)): ms
                for t, ms in measured.items()}])  # fmt: skip
            if measured:
                best = min(measured, key=lambda t: measured[t])
                table.setdefault((terms, columns), {})[rows] = (
                    best.rows, best.columns, best.terms, best.warps, best.stages,
                )  # fmt: skip
    return {"times": times, "table": table}


def tune_attention(device: torch.device, budget_s: float) -> dict[str, Any]:
    """Time every tile on the global layers and the windows of ViT-B at 1024 pixels."""
    end, times = time.monotonic() + budget_s, list[Any]()
    table: dict[AttentionKey, tuple[Any, ...]] = {}
    images, side, heads, width = 8, 64, 12, 64
    rows = images * side * side
    qkv = torch.randn(rows + 1, 3 * heads * width, device=device).half()
    step = torch.tensor(0.02, device=device)
    for window in (0, 14):
        group = window or side
        tables = [torch.randn(2 * group - 1, width, device=device).half() * 0.2 for _ in range(2)]
        source = window_source_rows(images, side, window).to(device) if window else None
        grid, measured = AttentionGrid(heads, width, group, group), {}
        for tile in ATTENTION_TILES:
            if time.monotonic() > end:
                break
            try:
                measured[tile] = milliseconds(
                    lambda g=grid, s=source, t=tile, p=tables: attention(
                        qkv, p[0], p[1], g, rows=rows, source_rows=s, step=step, tile=t
                    )
                )
            except Exception as error:  # tiles that do not fit this GPU are skipped
                times.append([window, str(tile), str(error)[:80]])
        times.append([window, {str(tile): ms for tile, ms in measured.items()}])
        if measured:
            best = min(measured, key=lambda t: measured[t])
            table[group, group, width, "float16"] = (
                best.queries, best.keys, best.warps, best.stages, best.precision,
            )  # fmt: skip
    return {"times": times, "table": table}
