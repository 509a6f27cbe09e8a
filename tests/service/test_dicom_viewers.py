"""The readers that people use open the segmentations: dciodvfy, dcmqi and cornerstone's adapters.

dciodvfy is Debian's dicom3tools, dcmqi is 3D Slicer's way, the adapters are OHIF's.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset

from service.imaging.dicom_header import read_source_header
from service.imaging.dicom_object import SegmentationMethod
from service.imaging.dicom_options import ObjectOptions, PlaneChoice
from service.imaging.dicom_segmentation import Segment, encode_dicom_segmentation
from tests.dicom_files import make_xray
from tests.service.fake_model import FakeInfo

VIEWERS = Path(__file__).parents[1] / "viewers"
CR, DX = "1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.1.1"
AREAS_PX = (35 * 26, 35 * 25)
PLANE = {
    "FrameOfReferenceUID": "1.2.3.4",
    "ImagePositionPatient": [10, 20, 30],
    "ImageOrientationPatient": [1, 0, 0, 0, 0, -1],
}
# What each reader says of each X-ray without a plane or spacing of its own, by choice of plane.
SOURCES: dict[str, dict[str, Any]] = {
    "CR": {"SOPClassUID": CR, "Modality": "CR", "ImagerPixelSpacing": [0.15, 0.14]},
    "DX": {"SOPClassUID": DX, "Modality": "DX", "ImagerPixelSpacing": [0.15, 0.14]},
    "DX with its own plane": {"SOPClassUID": DX, "PixelSpacing": [0.15, 0.14], **PLANE},
    "DX without spacing": {"SOPClassUID": DX},
}


def clean(name: str) -> Dataset:
    """Return a faultless X-ray."""
    return make_xray(
        **SOURCES[name],
        PatientBirthDate="19700101",
        PatientSex="F",
        StudyDate="20260102",
        StudyTime="101112",
        ContentDate="20260102",
        ContentTime="101112",
        AccessionNumber="A1",
        ReferringPhysicianName="",
        Manufacturer="Acme",
        PatientOrientation=["L", "F"],
    )


def written(
    folder: Path, xray: Dataset, plane: PlaneChoice = PlaneChoice.DETECTOR, *, two: bool = True
) -> Path:
    right, left = np.zeros((48, 64), bool), np.zeros((48, 64), bool)
    right[5:40, 4:30] = True
    left[6:41, 35:60] = True
    segments = [Segment(right, "right_lung"), Segment(left, "left_lung")]
    method = SegmentationMethod(FakeInfo(), "lung_field", 0.5)
    data = encode_dicom_segmentation(
        read_source_header(xray),
        segments if two else [Segment(right | left)],
        method,
        ObjectOptions(plane=plane),
    )
    path = folder / "segmentation.dcm"
    path.write_bytes(data)
    return path


def remarks_of_dciodvfy(path: Path) -> list[str]:
    program = shutil.which("dciodvfy")
    if program is None:
        pytest.skip("dciodvfy is not installed (Debian: dicom3tools)")
    found = subprocess.run([program, "-new", path], capture_output=True, text=True, check=False)
    return [line for line in found.stderr.splitlines() if line.startswith(("Error", "Warning"))]


def opened_by_dcmqi(path: Path, folder: Path) -> dict[str, Any]:
    program = Path(sysconfig.get_path("scripts")) / "segimage2itkimage"
    if not program.exists():
        pytest.skip("dcmqi is not installed (pip install dcmqi)")
    folder.mkdir()
    command: list[str | Path] = [
        program,
        "--inputDICOM",
        path,
        "--outputDirectory",
        folder,
        "-t",
        "nrrd",
    ]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    meta = folder / "meta.json"
    read: dict[str, Any] = json.loads(meta.read_text()) if meta.exists() else {}
    return read | {"files": len(list(folder.glob("*.nrrd"))), "said": found.stdout + found.stderr}


@pytest.fixture(scope="session")
def node() -> str:
    """Return node's path, with the adapters installed beside the script."""
    program, npm = shutil.which("node"), shutil.which("npm")
    if program is None or npm is None:
        pytest.skip("node and npm are not installed, so OHIF's adapters are not tried")
    if not (VIEWERS / "node_modules").exists():
        command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        made = subprocess.run(
            command,
            cwd=VIEWERS,
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode != 0:
            pytest.skip(f"npm cannot install OHIF's adapters: {made.stderr[-300:]}")
    return program


def opened_by_cornerstone(node: str, path: Path, xray: Dataset) -> tuple[dict[str, Any], str]:
    keywords = (
        *("SOPInstanceUID", "SOPClassUID", "SeriesInstanceUID", "Modality", "Rows", "Columns"),
        *("ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing"),
        *("ImagerPixelSpacing", "FrameOfReferenceUID"),
    )
    described = {
        keyword: _plain(xray[keyword].value) for keyword in keywords if keyword in xray
    }  # as a viewer's metadata provider has them
    json_path = path.with_suffix(".json")
    json_path.write_text(json.dumps(described))
    command = [node, str(VIEWERS / "open_segmentation.mjs"), str(path), str(json_path)]
    found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    return (json.loads(found.stdout) if found.returncode == 0 else {}), found.stderr


def _plain(value: Any) -> Any:
    if isinstance(value, int):
        return value
    return str(value) if isinstance(value, str) else [float(number) for number in value]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("plane", PlaneChoice)
@pytest.mark.parametrize("two", [True, False])
def test_dciodvfy_is_silent(tmp_path: Path, source: str, plane: PlaneChoice, two: bool) -> None:
    assert remarks_of_dciodvfy(written(tmp_path, clean(source), plane, two=two)) == []


@pytest.mark.parametrize("source", ["CR", "DX", "DX with its own plane"])
def test_dcmqi_reads_both_lungs_with_side_and_size(tmp_path: Path, source: str) -> None:
    read = opened_by_dcmqi(written(tmp_path, clean(source)), tmp_path / "read")
    assert read["files"] == 2
    sides = [
        group[0]["SegmentedPropertyTypeModifierCodeSequence"]["CodeMeaning"]
        for group in read["segmentAttributes"]
    ]
    assert sides == ["Right", "Left"]
    header = next((tmp_path / "read").glob("*.nrrd")).read_bytes().split(b"\n\n")[0]
    assert b"sizes: 64 48 1" in header


def test_dcmqi_needs_a_pixel_size_which_is_never_invented(tmp_path: Path) -> None:
    """The one reader that refuses an X-ray without spacing: the docs say so."""
    read = opened_by_dcmqi(written(tmp_path, clean("DX without spacing")), tmp_path / "read")
    assert read["files"] == 0
    assert "Pixel Measures" in read["said"]


def test_dcmqi_refuses_a_segmentation_without_a_plane(tmp_path: Path) -> None:
    """Why the detector's plane is the default."""
    path = written(tmp_path, clean("DX"), PlaneChoice.NONE)
    assert opened_by_dcmqi(path, tmp_path / "read")["files"] == 0


@pytest.mark.parametrize("source", SOURCES)
def test_cornerstone_shows_both_lungs(node: str, tmp_path: Path, source: str) -> None:
    xray = clean(source)
    read, said = opened_by_cornerstone(node, written(tmp_path, xray), xray)
    assert said == ""
    assert [segment["area_px"] for segment in read["segments"]] == list(AREAS_PX)
    assert [segment["label"] for segment in read["segments"]] == [
        "Right lung (lung_field)",
        "Left lung (lung_field)",
    ]


def test_cornerstone_refuses_a_segmentation_without_a_plane(node: str, tmp_path: Path) -> None:
    """Why the detector's plane is the default."""
    xray = clean("DX")
    read, said = opened_by_cornerstone(node, written(tmp_path, xray, PlaneChoice.NONE), xray)
    assert read == {}
    assert "ImageOrientationPatient" in said
