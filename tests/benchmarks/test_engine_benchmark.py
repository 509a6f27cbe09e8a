"""The benchmark of the engine on a tiny SAM: table, JSON, and masks that are the same mask."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from benchmarks.engines import engine
from benchmarks.engines.engine_cpu import images_at_once
from benchmarks.engines.engine_rows import Timing, rows_of_cell
from benchmarks.engines.peers.exported_graphs import BENCH_EXTRA
from benchmarks.engines.peers.known_peers import EAGER, OWN_INT8, PEERS
from benchmarks.engines.product_ceiling import encoder_operations
from benchmarks.engines.random_model import write_random_models
from model_store.architecture import sam_config
from tests.tiny_models import make_tiny_config

MISSING = [p for p in ("onnxruntime", "openvino", "nncf") if importlib.util.find_spec(p) is None]


def test_every_row_predicts_the_mask_of_fp32(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    integers, floats = write_random_models(make_tiny_config(), tmp_path)
    arguments = ["--quick", "--threads", "1", "--model", str(integers), "--float_model"]
    assert engine.main([*arguments, str(floats), "--workspace", str(tmp_path)]) == 0
    output = capfd.readouterr().out
    report = json.loads(output.splitlines()[-1])
    rows = {row["row"]: row for row in report["rows"] if row["stage"] == "image to mask"}
    said = " ".join(report["notes"])
    for label in PEERS:
        assert label in rows or label in said, f"{label} has neither a row nor a reason"
    assert {EAGER, "ours FP32", OWN_INT8} <= set(rows)
    for label, row in rows.items():
        assert row["dice"] >= (0.9999 if "FP32" in label else 0.95), label
        assert label in output
        assert 1 <= row["rounds"] <= 3  # as many as the time allows
        assert 0 < row["median_ms"] <= row["p95_ms"]
        assert row["peak_mib"] > 50
    if MISSING:
        assert BENCH_EXTRA in said
    shares = [row["ceiling_share"] for row in report["rows"] if row["ceiling_share"] is not None]
    assert len(shares) == 1 and 0 < shares[0] < 1
    assert report["ceiling_gops"] > 1
    assert report["machine"]["processor"]


def test_ratios_are_of_the_same_round() -> None:
    times = {
        EAGER: [40.0, 80.0, 40.0],
        "ONNX Runtime FP32": [20.0, 40.0, 20.0],
        OWN_INT8: [10.0, 20.0, 10.0],
    }
    timings = {
        name: Timing({"encoder": values}, empty_mib=100, peak_mib=300 if name == EAGER else 200)
        for name, values in times.items()
    }
    rows = rows_of_cell(
        "model", 2, timings, eager=EAGER, fp32_peers=[EAGER, "ONNX Runtime FP32"],
        own_int8=OWN_INT8, encoder_share=0.5,
    )  # fmt: skip
    ours = rows[-1]
    assert (ours.times_eager, ours.times_fastest_fp32_peer) == (4.0, 2.0)
    assert ours.median_ms == 5.0  # of one image
    assert ours.peak_over_eager == pytest.approx(2 / 3)
    assert ours.above_empty_over_eager == 0.5
    assert ours.ceiling_share == 0.5 and rows[0].ceiling_share is None


def test_operations_are_two_for_each_weight_and_patch(tmp_path: Path) -> None:
    config = make_tiny_config()  # 16 patches, width 32, depth 2, neck 32, 1 channel
    integers, _ = write_random_models(config, tmp_path)
    blocks = 2 * 12 * 32 * 32
    neck = 32 * 32 + 9 * 32 * 32
    assert encoder_operations(integers) == 2 * 16 * (blocks + neck + 32 * 256)


def test_batches_are_cut_where_scores_would_fill_the_memory() -> None:
    assert images_at_once(sam_config("vit_b"), 8) == 1
    assert images_at_once(sam_config("vit_b", input_size=512), 8) == 8
