"""Every GPU kernel against its definition, line by line on the CPU in Triton's interpreter."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy import special

pytest.importorskip("triton", reason="no Triton: the GPU kernels were NOT tested")

from model_store.engine import kernel_checks
from model_store.engine.kernel_checks import KernelCheck, check_kernels, make_integers
from model_store.engine.kernels import tuned_tiles as tuned_tiles_module
from model_store.engine.kernels.matrix import (
    TILES,
    Tile,
    choose_tile,
    int8_accumulate,
    int8_matrix,
)
from model_store.engine.kernels.tuned_tiles import TABLE_FILE, TunedTiles
from model_store.engine.token_windows import window_source_rows
from model_store.integers import ZERO_POINT, reference_accumulate
from model_store.segment_anything_parts import ImageEncoderViT

CPU = torch.device("cpu")


def test_every_kernel_computes_its_definition() -> None:
    failed = [check for check in check_kernels(CPU) if not check.passed]
    assert not failed, failed


@pytest.mark.parametrize("tile", TILES, ids=str)
@pytest.mark.parametrize("pattern", ["random", "extremes"])
def test_every_tile_adds_the_same_integers(tile: object, pattern: str) -> None:
    activation, weight = make_integers((150, 200, 70), pattern)
    steps = (activation.to(torch.int16) - ZERO_POINT).to(torch.int8)
    got = int8_accumulate(steps, weight, tile)  # type: ignore[arg-type]
    assert got.dtype == torch.int32
    assert torch.equal(got.long(), reference_accumulate(activation, weight))


def test_sums_beyond_float32_stay_exact() -> None:
    """3,072 extreme terms add to 24.8 million, more than float32 counts to."""
    activation = torch.full((16, 3072), -128, dtype=torch.int8)
    weight = torch.full((16, 3072), -63, dtype=torch.int8)
    weight[:, 0] = -62  # an odd sum that float32 would round
    weight[0, 1] = -61
    got = int8_accumulate(activation, weight).long()
    assert torch.equal(got, activation.long() @ weight.long().T)


def test_gelu_is_that_of_scipy() -> None:
    """Every step from -128 to 127, of sizes from small to beyond where the function is flat."""
    activation = torch.arange(-128, 128, dtype=torch.int8)[:, None].repeat(1, 16)
    weight = torch.eye(16, dtype=torch.int8)
    scale = torch.logspace(-4, 1, 16)
    got = int8_matrix(activation, weight, scale, None, gelu=True).double().numpy()
    x = activation[:, :1].double().numpy() * scale.double().numpy()
    wanted = 0.5 * x * (1 + special.erf(x / 2**0.5))
    assert (np.abs(got - wanted) <= 4e-7 * np.maximum(1, np.abs(x))).all()


def test_a_wrong_kernel_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def off_by_one(*operands: object) -> torch.Tensor:
        return int8_accumulate(*operands) + 1  # type: ignore[arg-type]

    def broken(*operands: object, **options: object) -> torch.Tensor:
        raise RuntimeError("no such instruction")

    monkeypatch.setattr(kernel_checks, "int8_accumulate", off_by_one)
    monkeypatch.setattr(kernel_checks, "quantize", broken)
    checks = check_kernels(CPU, shapes=((7, 16, 8),), grids=())
    failed: dict[str, KernelCheck] = {c.name.split()[0]: c for c in checks if not c.passed}
    assert set(failed) == {"accumulate", "quantize"}, failed
    assert "no such instruction" in failed["quantize"].detail


@pytest.mark.parametrize(("grid", "window"), [(6, 4), (8, 4), (5, 7)])
def test_window_rows_are_where_sam_puts_the_tokens(grid: int, window: int) -> None:
    images = 2
    tokens = torch.arange(images * grid * grid, dtype=torch.float32).view(images, grid, grid, 1)
    sam = sys.modules[ImageEncoderViT.__module__]
    windows, _ = sam.window_partition(tokens + 1, window)  # padding is 0
    rows = window_source_rows(images, grid, window)
    wanted = torch.where(rows == images * grid * grid, 0, rows + 1)
    assert torch.equal(windows.flatten(), wanted.float())


def test_small_work_gets_small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuned_tiles_module, "_in_use", TunedTiles())
    assert choose_tile(32768, 768, 2304, 132) == TILES[0]
    assert choose_tile(256, 192, 192, 132) == TILES[-1]


def test_work_that_was_measured_gets_the_tile_of_the_stored_table() -> None:
    stored = TunedTiles.from_json(TABLE_FILE.read_text("utf-8"))
    measured = stored.products[768, 2304][32768]
    assert choose_tile(32768, 768, 2304, 132) == Tile(*measured)
    assert choose_tile(20000, 768, 2304, 132) == Tile(*measured)


def test_without_triton_nothing_of_it_is_imported() -> None:
    """The service must start where Triton is not installed."""
    code = (
        "import sys; sys.modules['triton'] = None; import model_store.predictor; "
        "sys.exit('triton.language' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_tuned_tiles_come_back_and_serve_only_sizes_near_the_measured_one() -> None:
    table = TunedTiles(
        {(768, 2304): {4096: (128, 128, 128, 8, 3), 32768: (128, 256, 128, 8, 3)}},
        {(64, 64, 64, "float16"): (128, 64, 8, 3, "tf32x3")},
    )
    assert TunedTiles.from_json(table.to_json()) == table
    assert TunedTiles.from_json(TunedTiles().to_json()) == TunedTiles()
    assert table.product(8192, 768, 2304) == (128, 128, 128, 8, 3)
    assert table.product(40000, 768, 2304) == (128, 256, 128, 8, 3)
    assert table.product(256, 768, 2304) is None
    assert table.product(4096, 768, 768) is None
