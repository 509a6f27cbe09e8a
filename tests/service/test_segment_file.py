"""The command for one file: its files, its result line, and an exit code for each failure."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from model_store.artifact import ArtifactError
from model_store.prediction import MaskPrediction, Prediction
from service.segment_file import main
from tests.dicom_files import as_file, make_xray
from tests.service.fake_model import FakeInfo, FakeManifest

torch.set_num_threads(1)


def pixels_of(path: Path) -> NDArray[Any]:
    """Decodes a picture that was written."""
    with Image.open(path) as image:
        return np.asarray(image)


@dataclass
class FakePredictor:
    """Answers with the inner half of the box and remembers what was asked."""

    info: FakeInfo = field(default_factory=FakeInfo)
    asked: list[Any] = field(default_factory=list)

    def predict(self, request: Any) -> Prediction:
        """Returns one mask."""
        self.asked.append(request)
        height, width = request.image.shape
        box = request.boxes[0] if request.boxes else (0.0, 0.0, float(width), float(height))
        x0, y0, x1, y1 = (int(value) for value in box)
        mask = np.zeros((height, width), bool)
        mask[y0 + 4 : y1 - 4, (3 * x0 + x1) // 4 : (x0 + 3 * x1) // 4] = True
        return Prediction((MaskPrediction(box, mask, 0.9, 0.98),), {"encode_image": 0.001})


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def predictor() -> FakePredictor:
    return FakePredictor()


@pytest.fixture
def run(
    tmp_path: Path,
    predictor: FakePredictor,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Run:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    rows, columns = np.mgrid[0:80, 0:100]
    Image.fromarray((rows + columns).astype(np.uint8)).save(tmp_path / "xray.png")
    (tmp_path / "model").mkdir()

    def call(*flags: object, image: str = "xray.png", model: str = "model") -> tuple[int, str, str]:
        argv = ["--image_path", tmp_path / image, "--checkpoint_path", tmp_path / model, *flags]
        code = main([str(each) for each in argv], lambda folder, device: predictor)  # type: ignore[arg-type, return-value]
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def picture(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image)


def test_results_without_a_place_are_named_after_the_xray(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = run("--save_mask")
    assert code == 0
    assert json.loads(out)["files"] == {"mask": "outputs/xray_mask.png"}
    assert pixels_of(tmp_path / "outputs" / "xray_mask.png").shape == (80, 100)


def test_everything_is_written_and_reported(run: Run, tmp_path: Path) -> None:
    mask_path = tmp_path / "new" / "inf_res.png"
    flags = ["--bbox", 0, 0, 100, 79, "--save_mask", "--visualize", "--output_mask_path", mask_path]
    code, out, err = run(*flags, "--save_overlay", tmp_path / "overlay")
    assert code == 0
    result = json.loads(out)
    assert out.count("\n") == 1
    mask = pixels_of(mask_path)
    assert mask.shape == (80, 100)
    assert set(np.unique(mask)) == {0, 255}
    assert result["area_px"] == (mask == 255).sum() == 71 * 50
    assert result["area_fraction"] == pytest.approx(71 * 50 / 8000)
    assert result["score"] == 0.9
    assert result["bbox"] == [0, 0, 100, 79]
    assert result["latency_ms"]["encode_image"] == 1.0
    assert result["latency_ms"]["total"] >= 1.0
    assert result["model"]["name"] == "fake"
    assert pixels_of(tmp_path / "overlay" / "xray_overlay.png").shape == (80, 100, 3)
    figure = tmp_path / "new" / "inf_res_figure.png"
    assert pixels_of(figure).shape == (80, 208, 3)
    assert str(figure) in err
    assert result["files"] == {
        "mask": str(mask_path),
        "overlay": str(tmp_path / "overlay" / "xray_overlay.png"),
        "figure": str(figure),
    }


def test_nothing_is_written_unasked(run: Run, tmp_path: Path) -> None:
    before = set(tmp_path.rglob("*"))
    code, out, err = run()
    assert (code, err) == (0, "")
    assert json.loads(out)["files"] == {}
    assert set(tmp_path.rglob("*")) == before


def test_no_box_asks_for_the_whole_image(run: Run, predictor: FakePredictor) -> None:
    run("--convention", "whole_lung", "--threshold", 0.3)
    (request,) = predictor.asked
    assert (request.boxes, request.convention, request.threshold) == ((), "whole_lung", 0.3)


def test_a_model_of_one_convention_predicts_no_other(run: Run, predictor: FakePredictor) -> None:
    predictor.info = FakeInfo(manifest=FakeManifest(("lung_field",)))
    code, out, err = run("--convention", "whole_lung")
    assert (code, out, predictor.asked) == (2, "", [])
    assert "--convention must be lung_field with this model" in err


def test_dicom_in_and_segmentation_out(run: Run, tmp_path: Path) -> None:
    (tmp_path / "xray.dcm").write_bytes(as_file(make_xray()))
    out_path = tmp_path / "seg.dcm"
    code, _, err = run("--save_mask", "--output_mask_path", out_path, image="xray.dcm")
    assert (code, err) == (0, "")
    assert pydicom.dcmread(out_path).SOPClassUID == pydicom.uid.SegmentationStorage
    code, _, err = run("--save_mask", "--output_mask_path", tmp_path / "b.dcm")
    assert code == 5
    assert "DICOM image" in err


def test_warnings_are_in_the_result(run: Run, tmp_path: Path) -> None:
    Image.new("L", (64, 64), 7).save(tmp_path / "flat.png")
    _, out, _ = run(image="flat.png")
    warning, *_ = json.loads(out)["warnings"]
    assert (warning["code"], warning["severity"]) == ("constant_image", "refuse")
    assert set(warning) == {"code", "message", "severity", "action"}


def test_flags_of_the_reference_script_are_accepted(run: Run) -> None:
    code, _, err = run("--bit_width", 8, "--skip_qkv", "True", "--max_rank", 48, "--alpha", 32)
    assert code == 0
    assert "--bit_width, --skip_qkv, --max_rank, --alpha ignored" in err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--bbox", 0, 0, 511, 511], "100 x 80"),
        (["--bbox", 50, 0, 40, 40], "x0 < x1"),
        (["--bbox", "nan", 0, 40, 40], "finite"),
        (["--bbox", -1, 0, 40, 40], "100 x 80"),
        (["--bbox", 1, 2, 3], "--bbox"),
        (["--bbox", 1, 2, 3, 4, 5], "5"),
        (["--bbox", "a", 2, 3, 4], "--bbox"),
        (["--threshold", 0], "--threshold"),
        (["--threshold", 1.5], "--threshold"),
        (["--threshold", "nan"], "--threshold"),
        (["--convention", "left_lung"], "--convention"),
        (["--device", "tpu"], "--device"),
        (["--bit_width", 4], "--bit_width"),
        (["--unknown"], "--unknown"),
        (["--save_mask", "--output_mask_path", "mask.jpg"], ".png"),
    ],
)
def test_bad_usage_is_exit_2_and_one_sentence(run: Run, flags: list[object], said: str) -> None:
    code, out, err = run(*flags)
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1


def test_the_xray_is_never_overwritten(run: Run, tmp_path: Path) -> None:
    before = (tmp_path / "xray.png").read_bytes()
    code, _, err = run("--save_mask", "--output_mask_path", tmp_path / "model/../xray.png")
    assert code == 2
    assert "overwrite" in err
    assert (tmp_path / "xray.png").read_bytes() == before


def test_cuda_that_is_not_there_is_exit_2(run: Run) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    code, _, err = run("--device", "cuda")
    assert code == 2
    assert "CUDA" in err


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("absent.png", None),
        ("empty.png", b""),
        ("text.png", b"no image"),
        ("cut.png", b"\x89PNG\r\n\x1a\n\x00\x00"),
        ("model", None),  # a folder
    ],
)
def test_an_unreadable_image_is_exit_3(
    run: Run, tmp_path: Path, predictor: FakePredictor, name: str, data: bytes | None
) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    code, out, err = run(image=name)
    assert (code, out) == (3, "")
    assert err.count("\n") == 1
    assert predictor.asked == []


def test_too_many_pixels_is_exit_3(run: Run) -> None:
    code, _, err = run("--max_pixels", 7999)
    assert code == 3
    assert "8000" in err


def test_a_refused_checkpoint_is_exit_4(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(model="absent")
    assert code == 4
    assert "manifest.json" in err

    def refuse(folder: Path, device: str) -> Any:
        raise ArtifactError("manifest.json: the weights' sha256\nis another")

    argv = ["--image_path", tmp_path / "xray.png", "--checkpoint_path", tmp_path / "model"]
    assert main([str(each) for each in argv], refuse) == 4
    err = capsys.readouterr().err
    assert "sha256 is another" in err
    assert err.count("\n") == 1


def test_an_empty_folder_is_refused_by_the_real_loader(
    tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--image_path", tmp_path / "xray.png", "--checkpoint_path", tmp_path / "model"]
    assert main([*map(str, argv), "--device", "cpu"]) == 4
    assert capsys.readouterr().err.count("\n") == 1


def test_an_unwritable_result_is_exit_5(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    code, _, err = run("--save_overlay", tmp_path / "file")
    assert code == 5
    assert "cannot be written" in err


def test_a_failure_inside_is_exit_1_without_a_traceback(
    tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    class Broken(FakePredictor):
        def predict(self, request: Any) -> Prediction:
            raise RuntimeError("the model\nbroke")

    argv = ["--image_path", tmp_path / "xray.png", "--checkpoint_path", tmp_path / "model"]
    assert main([str(each) for each in argv], lambda folder, device: Broken()) == 1  # type: ignore[arg-type, return-value]
    assert capsys.readouterr().err == "segment_file: internal failure, the model broke\n"


def test_help_needs_no_torch(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for flag in ("--bbox", "--save_mask", "--visualize", "--output_mask_path", "--save_overlay"):
        assert flag in text
