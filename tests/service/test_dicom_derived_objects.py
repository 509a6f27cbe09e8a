"""Secondary captures and structured reports made from an answer."""

from __future__ import annotations

import io
import shutil
import subprocess
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from service.imaging.dicom_header import SourceHeader, read_source_header
from service.imaging.dicom_object import SegmentationMethod
from service.imaging.dicom_options import ObjectOptions
from service.imaging.dicom_report import (
    QUANTITIES,
    UNITS,
    Measure,
    MeasuredSegment,
    Remark,
    encode_measurement_report,
    reference_to,
)
from service.imaging.dicom_secondary_capture import encode_secondary_capture
from service.imaging.dicom_segmentation import Segment, encode_dicom_segmentation
from service.imaging.legend import with_legend
from tests.dicom_files import PATIENT, YAMADA, make_xray, raw_file
from tests.service.fake_model import FakeInfo

METHOD = SegmentationMethod(FakeInfo(), "lung_field", 0.5)
PICTURE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def header(**attributes: Any) -> SourceHeader:
    dated = {"StudyDate": "20260102", "StudyTime": "101112", "ImagerPixelSpacing": [0.14, 0.15]}
    born = {"PatientBirthDate": "19700101", "PatientSex": "F", "PatientOrientation": ["L", "F"]}
    return read_source_header(make_xray(**{**dated, **born, **attributes}))


def segmentation(source: SourceHeader) -> bytes:
    mask = np.zeros((48, 64), bool)
    mask[5:40, 5:30] = True
    segments = [Segment(mask, "right_lung"), Segment(mask[:, ::-1], "left_lung")]
    return encode_dicom_segmentation(source, segments, METHOD)


MEASURES = [
    Measure("area", 875, "px"),
    Measure("area", 18.375, "mm2"),
    Measure("height", 4.9, "mm"),
]


def report(source: SourceHeader, options: ObjectOptions = ObjectOptions()) -> bytes:  # noqa: B008
    return encode_measurement_report(
        source,
        [MeasuredSegment(1, MEASURES, "right_lung"), MeasuredSegment(2, MEASURES, "left_lung")],
        METHOD,
        segmentation=reference_to(segmentation(source)),
        image_measures=[Measure("cardiothoracic_ratio", 0.48, "1")],
        remarks=[Remark("implausibly_small_mask", "look")],
        options=options,
    )


def read(data: bytes) -> Dataset:
    return pydicom.dcmread(io.BytesIO(data))


def remarks_of_dciodvfy(data: bytes, folder: Path) -> list[str]:
    program = shutil.which("dciodvfy")
    if program is None:
        pytest.skip("dciodvfy is not installed (Debian: dicom3tools)")
    path = folder / "object.dcm"
    path.write_bytes(data)
    found = subprocess.run([program, "-new", path], capture_output=True, text=True, check=False)
    return [line for line in found.stderr.splitlines() if line.startswith(("Error", "Warning"))]


def test_a_secondary_capture_holds_the_picture_and_says_what_it_is() -> None:
    source = header()
    dataset = read(encode_secondary_capture(source, PICTURE, METHOD, remarks=["confidence 0.97"]))
    assert dataset.SOPClassUID == pydicom.uid.SecondaryCaptureImageStorage
    assert dataset.PhotometricInterpretation == "RGB"
    assert dataset.BurnedInAnnotation == "YES"
    assert dataset.PatientName == PATIENT
    assert dataset.StudyInstanceUID == source.study_instance_uid
    assert dataset.SeriesInstanceUID != source.series_instance_uid
    assert dataset.PatientOrientation == ["L", "F"]
    assert "not a diagnosis" in dataset.DerivationDescription
    (reference,) = dataset.SourceImageSequence
    assert reference.ReferencedSOPInstanceUID == source.sop_instance_uid
    assert np.array_equal(dataset.pixel_array[:48], PICTURE)
    assert dataset.pixel_array[48:].max() > 200  # the text


@pytest.mark.parametrize("bits", [8, 16])
def test_a_grey_secondary_capture_keeps_every_bit(bits: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 2**bits, PICTURE.shape[:2]).astype(f"uint{bits}")
    data = encode_secondary_capture(header(), grey, METHOD, description="Lungs alone")
    dataset = read(data)
    assert dataset.PhotometricInterpretation == "MONOCHROME2"
    assert (dataset.BitsAllocated, dataset.SamplesPerPixel) == (bits, 1)
    assert np.array_equal(dataset.pixel_array[: len(grey)], grey)
    low = dataset.WindowCenter - dataset.WindowWidth / 2
    assert 0 <= low < np.percentile(grey, 1) < np.percentile(grey, 99) < low + dataset.WindowWidth
    assert dataset.pixel_array[len(grey) :].max() > low + dataset.WindowWidth * 0.9  # the text
    assert remarks_of_dciodvfy(data, tmp_path) == []


@pytest.mark.parametrize("spacing", ["PixelSpacing", "NominalScannedPixelSpacing"])
def test_a_secondary_capture_keeps_a_spacing_that_its_kind_has(spacing: str) -> None:
    dataset = read(
        encode_secondary_capture(header(**{spacing: [0.2, 0.2]} | _no_imager), PICTURE, METHOD)
    )
    assert dataset[spacing].value == [0.2, 0.2]


_no_imager = {"ImagerPixelSpacing": [0, 0]}


def test_dciodvfy_is_silent_on_secondary_captures(tmp_path: Path) -> None:
    for source in (header(), header(PixelSpacing=[0.2, 0.2]), header(PatientOrientation="")):
        assert (
            remarks_of_dciodvfy(encode_secondary_capture(source, PICTURE, METHOD), tmp_path) == []
        )


def test_the_legend_hides_nothing_and_wraps_what_is_too_long() -> None:
    short, long = with_legend(PICTURE, ["A"]), with_legend(PICTURE, ["A " * 60, "B" * 100])
    assert np.array_equal(short[:48], PICTURE)
    assert np.array_equal(long[:48], PICTURE)
    assert len(long) > len(short) > 48
    assert long.shape[1:] == (64, 3)


def test_a_report_refers_to_the_segments_and_measures_each() -> None:
    source = header()
    dataset = read(report(source))
    document = highdicom.sr.ComprehensiveSR.from_dataset(dataset)
    groups = document.content.get_planar_roi_measurement_groups()
    assert len(groups) == 2
    for number, group in enumerate(groups, start=1):
        values = [
            (found.name.meaning, found.value, found.unit.value)
            for found in group.get_measurements()
        ]
        assert values == [("Area", 875, "{pixels}"), ("Area", 18.375, "mm2"), ("Height", 4.9, "mm")]
        (segment,) = _segments_in(group)
        assert segment.ReferencedSegmentNumber == number
        assert segment.ReferencedSOPInstanceUID == read(segmentation(source)).SOPInstanceUID
    (whole,) = document.content.get_image_measurement_groups()
    (ratio,) = whole.get_measurements()
    assert (ratio.name.meaning, ratio.value) == ("Cardiothoracic ratio", 0.48)
    (evaluation,) = whole.get_qualitative_evaluations()
    assert evaluation.value.value == "implausibly_small_mask"
    assert evaluation.value.meaning == "implausibly small mask (look)"


def _segments_in(group: Any) -> list[Dataset]:
    return [
        reference
        for found in group[0].ContentSequence
        for reference in found.get("ReferencedSOPSequence", ())
        if "ReferencedSegmentNumber" in reference
    ]


def test_a_report_without_masks_says_why() -> None:
    data = encode_measurement_report(
        header(), [], METHOD, remarks=[Remark("not_a_frontal_chest", "refuse")]
    )
    document = highdicom.sr.ComprehensiveSR.from_dataset(read(data))
    assert document.content.get_planar_roi_measurement_groups() == []
    (whole,) = document.content.get_image_measurement_groups()
    (evaluation,) = whole.get_qualitative_evaluations()
    assert evaluation.value.meaning == "not a frontal chest (refuse)"


def test_segments_cannot_be_measured_without_their_segmentation() -> None:
    with pytest.raises(ValueError, match="segmentation"):
        encode_measurement_report(header(), [MeasuredSegment(1, MEASURES)], METHOD)


def test_every_quantity_and_unit_can_be_reported(tmp_path: Path) -> None:
    measures = [Measure(quantity, 1.5, unit) for quantity in QUANTITIES for unit in UNITS]
    data = encode_measurement_report(header(), [], METHOD, image_measures=measures)
    assert [line for line in remarks_of_dciodvfy(data, tmp_path) if "99LUNGSEG" not in line] == []


def test_dciodvfy_has_no_remark_on_reports_but_our_own_codes(tmp_path: Path) -> None:
    """It knows no private coding scheme; ours is named in the object, as PS3.3 C.12.1 wants."""
    remarks = remarks_of_dciodvfy(report(header()), tmp_path)
    assert [line for line in remarks if "Unrecognized defined term = <99LUNGSEG>" not in line] == []


def test_the_same_request_gives_the_same_objects_and_a_key_gives_others() -> None:
    source = header()
    assert report(source) == report(source)
    picture = encode_secondary_capture(source, PICTURE, METHOD)
    assert encode_secondary_capture(source, PICTURE, METHOD) == picture
    keyed = ObjectOptions(uid_key="secret")
    uids = {
        read(data).SOPInstanceUID
        for data in (
            *(report(source), report(source, keyed), picture, segmentation(source)),
            encode_secondary_capture(source, PICTURE, METHOD, options=keyed),
            encode_secondary_capture(source, PICTURE ^ np.uint8(1), METHOD),
        )
    }
    assert len(uids) == 6


def test_a_japanese_name_is_written_in_unicode() -> None:
    values = {"SpecificCharacterSet": b"\\ISO 2022 IR 87", "PatientName": YAMADA}
    source = read_source_header(pydicom.dcmread(io.BytesIO(raw_file(make_xray(), values))))
    for data in (encode_secondary_capture(source, PICTURE, METHOD), report(source)):
        assert read(data).PatientName == "Yamada^Tarou=山田^太郎=やまだ^たろう"


def test_a_picture_of_another_shape_is_an_error() -> None:
    with pytest.raises(ValueError, match="shape"):
        encode_secondary_capture(header(), PICTURE[:-1], METHOD)
