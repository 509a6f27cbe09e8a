"""Presentation states: the outlines of the masks, over the X-ray as its own header shows it."""

from __future__ import annotations

import dataclasses
import io
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset

from model_store.pictures.dicom_decoding import decode_dicom
from model_store.pictures.dicom_display import read_grey_display
from service.imaging.dicom_header import read_source_header
from service.imaging.dicom_object import SegmentationMethod
from service.imaging.dicom_options import ObjectOptions
from service.imaging.dicom_presentation import encode_presentation_state
from service.imaging.dicom_segmentation import Segment
from tests.dicom_files import PATIENT, as_file, make_xray
from tests.service.fake_model import FakeInfo, make_app, running

METHOD = SegmentationMethod(FakeInfo(), "lung_field", 0.5)
HEIGHT, WIDTH = 48, 64
DATED: dict[str, Any] = {"StudyDate": "20260102", "StudyTime": "101112"}
GRADIENT = np.linspace(500, 1500, HEIGHT * WIDTH).astype(np.uint16).reshape(HEIGHT, WIDTH)


def lungs() -> list[Segment]:
    right = np.zeros((HEIGHT, WIDTH), bool)
    right[5:40, 4:30] = True
    right[20:24, 10:16] = False  # a hole
    left = np.zeros((HEIGHT, WIDTH), bool)
    left[6:41, 35:60] = True
    return [Segment(right, "right_lung"), Segment(left, "left_lung")]


def encoded(
    xray: Dataset,
    segments: list[Segment] | None = None,
    lines: tuple[str, ...] = ("AI result, not a diagnosis", "confidence 0.97"),
    options: ObjectOptions = ObjectOptions(),  # noqa: B008
) -> bytes:
    display = read_grey_display(xray)
    assert display is not None
    return encode_presentation_state(
        read_source_header(xray),
        display,
        decode_dicom(as_file(xray), 10**6).pixels,
        lungs() if segments is None else segments,
        METHOD,
        lines=lines,
        options=options,
    )


def read(data: bytes) -> Dataset:
    return pydicom.dcmread(io.BytesIO(data))


def rings_of(annotation: Dataset) -> list[NDArray[np.float32]]:
    return [
        np.array(one.GraphicData, np.float32).reshape(-1, 2)
        for one in annotation.get("GraphicObjectSequence", [])
    ]


def filled(rings: list[NDArray[np.float32]]) -> NDArray[np.bool_]:
    """Return the pixels whose centres are inside; a hole takes its pixels away."""
    centres = [(x + 0.5, y + 0.5) for y in range(HEIGHT) for x in range(WIDTH)]
    inside = np.zeros(HEIGHT * WIDTH, bool)
    for ring in rings:
        inside ^= [cv2.pointPolygonTest(ring[:-1], centre, False) > 0 for centre in centres]
    return inside.reshape(HEIGHT, WIDTH)


def test_closed_lines_enclose_the_pixels_of_each_mask_in_a_layer_of_its_own() -> None:
    dataset = read(encoded(make_xray(GRADIENT, **DATED)))
    right, left, remarks = dataset.GraphicAnnotationSequence
    assert [one.GraphicLayer for one in dataset.GraphicLayerSequence] == [
        *("RIGHT LUNG", "LEFT LUNG", "REMARKS")
    ]
    for annotation, segment in zip((right, left), lungs(), strict=True):
        rings = rings_of(annotation)
        assert all(np.array_equal(ring[0], ring[-1]) for ring in rings)
        assert np.array_equal(filled(rings), segment.mask)
        assert {one.GraphicAnnotationUnits for one in annotation.GraphicObjectSequence} == {"PIXEL"}
    assert len(rings_of(right)) == 2
    (text,) = remarks.TextObjectSequence
    assert text.UnformattedTextValue == "AI result, not a diagnosis\r\nconfidence 0.97"


def test_it_belongs_to_the_xray_and_shows_all_of_it() -> None:
    xray = make_xray(GRADIENT, PixelSpacing=[0.3, 0.2], **DATED)
    dataset = read(encoded(xray))
    assert (dataset.PatientName, dataset.Modality) == (PATIENT, "PR")
    assert dataset.StudyInstanceUID == xray.StudyInstanceUID
    (series,) = dataset.ReferencedSeriesSequence
    (image,) = series.ReferencedImageSequence
    assert series.SeriesInstanceUID == xray.SeriesInstanceUID
    assert image.ReferencedSOPInstanceUID == xray.SOPInstanceUID
    (area,) = dataset.DisplayedAreaSelectionSequence
    assert area.DisplayedAreaTopLeftHandCorner == [1, 1]
    assert area.DisplayedAreaBottomRightHandCorner == [WIDTH, HEIGHT]
    assert area.PresentationPixelSpacing == [0.3, 0.2]


def table(values: NDArray[np.int64], first: int, bits: int = 12) -> Dataset:
    item = Dataset()
    signed = first < 0
    count = len(values) % 2**16  # 0 stands for all of them
    item.add_new("LUTDescriptor", "SS" if signed else "US", [count, first, bits])
    item.add_new("LUTData", "OW", values.astype("<u2").tobytes())
    return item


RISING, FALLING = np.arange(4096), np.arange(4096)[::-1]
CURVE = (65535 * (np.arange(4096) / 4095) ** 2).astype(np.int64)
SHOWN: dict[str, dict[str, Any]] = {
    "nothing said": {},
    "a window": {"WindowCenter": 1000, "WindowWidth": 1100},
    "several windows": {"WindowCenter": [1000, 400], "WindowWidth": [1100, 50]},
    "a sigmoid window": {
        **{"WindowCenter": 1000, "WindowWidth": 900, "VOILUTFunction": "SIGMOID"},
    },
    "white first": {"PhotometricInterpretation": "MONOCHROME1"},
    "white first with a window": {
        "PhotometricInterpretation": "MONOCHROME1",
        **{"WindowCenter": 1000, "WindowWidth": 1100},
    },
    "an inverse shape": {"PresentationLUTShape": "INVERSE"},
    "a rescaled value": {"RescaleSlope": 2, "RescaleIntercept": -100},
    "a falling slope": {"RescaleSlope": -1, "RescaleIntercept": 4095},
    "a rising table": {"VOILUTSequence": [table(RISING, 0)]},
    "a falling table": {"VOILUTSequence": [table(FALLING, 0)]},
    "a table that begins below zero": {
        **{"RescaleSlope": 1, "RescaleIntercept": -1024},
        "VOILUTSequence": [table(RISING, -1024)],
    },
    "a modality table": {"ModalityLUTSequence": [table(CURVE, 0, 16)]},
    "signed values": {"PixelRepresentation": 1},
}


def shown(pixels: NDArray[np.uint16], attributes: Mapping[str, Any], folder: Path) -> Any:
    """Return an X-ray's file, and what DCMTK shows of it under its presentation state."""
    program = shutil.which("dcmp2pgm")
    if program is None:
        pytest.skip("dcmp2pgm is not installed (Debian: dcmtk)")
    xray = make_xray(pixels, **DATED, **attributes)
    (folder / "xray.dcm").write_bytes(as_file(xray))
    (folder / "state.dcm").write_bytes(encoded(xray))
    command = [program, "-p", "state.dcm", "xray.dcm", "shown.pgm"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with Image.open(folder / "shown.pgm") as picture:
        return as_file(xray), np.asarray(picture).astype(float)


@pytest.mark.parametrize("name", SHOWN)
def test_dcmtk_shows_dense_tissue_bright_whatever_the_header_says(
    tmp_path: Path, name: str
) -> None:
    file, picture = shown(GRADIENT, SHOWN[name], tmp_path)
    decoded = decode_dicom(file, 10**6).pixels.astype(float)
    assert np.corrcoef(picture.ravel(), decoded.ravel())[0, 1] > 0.9
    assert picture.max() - picture.min() > 50, "it has no contrast"


@pytest.mark.parametrize("name", SHOWN)
def test_dciodvfy_is_silent(tmp_path: Path, name: str) -> None:
    program = shutil.which("dciodvfy")
    if program is None:
        pytest.skip("dciodvfy is not installed (Debian: dicom3tools)")
    path = tmp_path / "state.dcm"
    spacing: dict[str, Any] = {} if name == "nothing said" else {"PixelSpacing": [0.3, 0.2]}
    path.write_bytes(encoded(make_xray(GRADIENT, **DATED, **SHOWN[name], **spacing)))
    found = subprocess.run([program, "-new", path], capture_output=True, text=True, check=False)
    said = [line for line in found.stderr.splitlines() if line.startswith(("Error", "Warning"))]
    assert said == []


def test_without_a_window_in_the_header_the_xray_s_own_values_are_shown(tmp_path: Path) -> None:
    _, picture = shown(GRADIENT, {}, tmp_path)
    assert (picture.min(), picture.max()) == (0, 255)
    assert abs(float(np.median(picture)) - 127) < 10


def test_a_long_table_keeps_all_of_its_entries() -> None:
    for first in (0, -32768):
        long = table(np.arange(65536), first, 16)
        xray = make_xray(
            **DATED, VOILUTSequence=[long], RescaleSlope=1, RescaleIntercept=first or 0
        )
        (voi,) = read(encoded(xray)).SoftcopyVOILUTSequence
        (kept,) = voi.VOILUTSequence
        assert kept.LUTDescriptor == [0, first, 16]
        assert np.array_equal(np.frombuffer(kept.LUTData, "<u2"), np.arange(65536))


def test_a_table_of_forty_thousand_entries_may_begin_below_zero() -> None:
    descriptor = [40000, -1024, 16]
    long = table(np.arange(40000), -1024, 16)
    xray = make_xray(**DATED, VOILUTSequence=[long], RescaleSlope=1, RescaleIntercept=-1024)
    (voi,) = read(encoded(xray)).SoftcopyVOILUTSequence
    assert voi.VOILUTSequence[0].LUTDescriptor == descriptor


def test_the_same_request_gives_the_same_object_and_another_mask_or_key_another() -> None:
    xray = make_xray(GRADIENT, **DATED)
    assert encoded(xray) == encoded(xray)
    other = [dataclasses.replace(lungs()[0], mask=lungs()[1].mask), lungs()[1]]
    made = (encoded(xray), encoded(xray, other), encoded(xray, options=ObjectOptions("secret")))
    assert len({read(data).SOPInstanceUID for data in made}) == 3


def test_an_empty_mask_has_no_line_and_the_text_stays() -> None:
    empty = [Segment(np.zeros((HEIGHT, WIDTH), bool))]
    dataset = read(encoded(make_xray(GRADIENT), empty))
    (remarks,) = dataset.GraphicAnnotationSequence
    assert remarks.GraphicLayer == "REMARKS"


def test_a_mask_of_another_shape_is_an_error() -> None:
    with pytest.raises(ValueError, match="shape"):
        encoded(make_xray(GRADIENT), [Segment(np.zeros((3, 3), bool))])


@pytest.mark.anyio
async def test_the_service_answers_it_when_it_is_listed_and_refuses_it_for_colour() -> None:
    headers = {"Accept": 'multipart/related; type="application/dicom"'}
    colour = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    files = [as_file(make_xray(GRADIENT)), as_file(make_xray(colour, bits_stored=8))]
    async with running(make_app()) as client:
        answers = [
            await client.post(
                "/segment", files={"image": file}, data={"objects": "gsps"}, headers=headers
            )
            for file in files
        ]
    assert answers[0].status_code == 200
    body = answers[0].content
    assert b"1.2.840.10008.5.1.4.1.1.11.1" in body and b"not a diagnosis" in body
    assert (answers[1].status_code, answers[1].json()["code"]) == (422, "invalid_field")
    assert "colour" in answers[1].json()["detail"]
