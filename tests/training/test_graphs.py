"""Graphs for other programs give the stored model's masks."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from model_store.artifact import load_model
from tests.tiny_models import images, make_tiny_config, make_tiny_model
from training.__main__ import main
from training.export import write_deployed
from training.phantom.dataset import write_phantom_dataset


@pytest.fixture(scope="module")
def floats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("models")
    sizes = make_tiny_config(box_as_mask=True)
    model = make_tiny_model(box_as_mask=True)
    return write_deployed(model, sizes, out, name="float", version="1").folder


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("phantoms")
    write_phantom_dataset(root, {"val": 4}, longest_side=96)
    return root


def least_equal(said: str) -> float:
    found = re.search(r"4 X-rays of val: equal pixels [\d.]+, least ([\d.]+)", said)
    assert found is not None, said
    return float(found[1])


def test_the_graphs_of_integers_are_those_that_serve(
    tiny_artifact: Path, phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["graphs", "--model", str(tiny_artifact), "--format", "openvino"]
    command += ["--out", str(tmp_path / "ir"), "--data", str(phantoms)]
    assert main(command) == 0
    assert least_equal(capsys.readouterr().out) > 0.999
    names = {path.name for path in (tmp_path / "ir").iterdir()}
    assert names == {"encoder.xml", "encoder.bin", "decoder.xml", "decoder.bin"}
    assert main(command) == 2
    assert "holds graphs already" in capsys.readouterr().err


def test_onnx_holds_a_float_model(
    floats: Path, phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxscript", reason="onnxscript is not installed: ONNX was NOT tested")
    runtime = pytest.importorskip("onnxruntime", reason="no ONNX Runtime: ONNX was NOT tested")
    out = tmp_path / "onnx"
    command = ["graphs", "--model", str(floats), "--format", "onnx", "--out", str(out)]
    assert main([*command, "--data", str(phantoms)]) == 0
    assert least_equal(capsys.readouterr().out) > 0.999
    model, _ = load_model(floats)
    image, box = images(1), torch.tensor([[5.0, 9.0, 50.0, 60.0]])
    with torch.no_grad():
        wanted, iou = model(image, box, torch.zeros(1, dtype=torch.int64))
    encoder, decoder = (
        runtime.InferenceSession(out / f"{part}.onnx", providers=["CPUExecutionProvider"])
        for part in ("encoder", "decoder")
    )
    (embedding,) = encoder.run(None, {"image": image.numpy()})
    logits, score = decoder.run(None, {"embedding": embedding, "box": box.numpy()})
    np.testing.assert_allclose(logits, wanted, atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(score, iou, atol=1e-4, rtol=1e-4)


def test_onnx_of_integers_is_refused(
    tiny_artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["graphs", "--model", str(tiny_artifact), "--format", "onnx"]
    assert main([*command, "--out", str(tmp_path / "x")]) == 2
    assert "no operation for these integers" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
