"""Headers in every combination of oddities: a valid SEG or a documented refusal, never an error."""

from __future__ import annotations

import io
import shutil
import subprocess
import tempfile
import warnings
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import SecondaryCaptureImageStorage

from service.errors import ServiceError
from service.imaging.dicom_header import read_source_header
from service.imaging.dicom_object import SegmentationMethod
from service.imaging.dicom_segmentation import Segment, encode_dicom_segmentation
from service.imaging.picture_errors import read_upload
from tests.dicom_files import HONG, YAMADA, ZHANG, make_xray, raw_file
from tests.service.fake_model import FakeInfo

TERMS = [
    *(b"", b"ISO_IR 6", b"ISO_IR 13", b"ISO_IR 100", b"ISO_IR 101", b"ISO_IR 109", b"ISO_IR 110"),
    *(b"ISO_IR 126", b"ISO_IR 127", b"ISO_IR 138", b"ISO_IR 144", b"ISO_IR 148", b"ISO_IR 166"),
    *(b"ISO_IR 192", b"GB18030", b"GBK", b"UTF-8", b"ISO 2022 IR 6", b"ISO 2022 IR 13"),
    *(b"ISO 2022 IR 87", b"ISO 2022 IR 100", b"ISO 2022 IR 144", b"ISO 2022 IR 149"),
    *(b"ISO 2022 IR 159", b"ISO 2022 IR 58", b"ISO-IR 100", b"KLINGON", b"\xff", b"SHIFT_JIS"),
]
TEXTS = [
    *(b"", b" ", b"\0", b"A", b"A^B", b"A B", b"A\\B", b"\\", b"A^B^C^D^E^F", b"=", b"A=B=C=D"),
    *(YAMADA, HONG, ZHANG, b"M\xfcller", "Müller".encode(), b"\xff\xfe", b"\x1b", b"\x1b$B"),
    *(b"A" * 70, b"\x1b(Z", b"A\nB", b"A\x00B", "王".encode("gb18030"), b"\x80\x81", b"=^=^="),
]  # fmt: skip
CODES = [b"", b"M", b"m", b"U", b"Male", b"O\0", b"YES", b"yes", b"01", b"1", b"\xff", b"F\\M"]
DATES = [
    *(b"", b"19700101", b"00000000", b"19000000", b"1970", b"1970-01-01", b"1970.01.01"),
    *(b"20261301", b"20260101-20260102", b"UNKNOWN", b"\xb2\xb3", b"20260101\\20260102", b"0"),
]
TIMES = [
    b"",
    b"10",
    b"101010.123456",
    b"10:10:10",
    b"256060",
    b"235959",
    b"235960",
    b"noon",
    b"\xff",
    b"1",
]
AGES = [b"", b"043Y", b"43", b"043X", b"-01Y", b"\xff"]
NUMBERS = [
    *(b"", b"0.14\\0.14", b"0.14", b"0\\0", b"0.0\\0.0", b"-1\\-1", b"nan\\nan", b"inf\\inf"),
    *(b"1e400\\1", b"0,14\\0,14", b"x", b"\\", b"\xff", b"1\\2\\3", b"1\\0\\0\\0\\1\\0"),
    *(b"0.1\\0.1\0", b"0.1234567890123456789\\0.1", b"1\\0\\0\\0\\0\\-1", b"1"),
]  # fmt: skip
UIDS = [b"1.2.3", b"1.2.3.4", b"1.2.03", b"", b"x", b"1.2.3\0", b"1." + b"2" * 63, b"1..2"]
WORDS = [b"", b"CHEST", b"TH\xd6RAX", b"chest", b"A" * 20, b"L\\F", b"L", b"ABDOMEN\\CHEST"]
BY_REPRESENTATION = {
    **dict.fromkeys(("PN", "LO", "SH", "LT"), TEXTS),
    **{"CS": CODES + WORDS, "DA": DATES, "TM": TIMES, "AS": AGES, "DS": NUMBERS, "UI": UIDS},
}
KEYWORDS = [
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientAge", "PatientWeight"),
    *("PatientSize", "EthnicGroup", "PatientComments", "IssuerOfPatientID", "PatientBirthTime"),
    *("PatientIdentityRemoved", "DeidentificationMethod", "AccessionNumber", "StudyID"),
    *("StudyDate", "StudyTime", "ReferringPhysicianName", "StudyDescription", "ContentDate"),
    *("ContentTime", "AcquisitionDate", "SeriesDate", "TimezoneOffsetFromUTC", "Manufacturer"),
    *("ManufacturerModelName", "SoftwareVersions", "DeviceSerialNumber", "InstitutionName"),
    *("StationName", "BodyPartExamined", "PatientOrientation", "PixelSpacing", "SliceThickness"),
    *("ImagerPixelSpacing", "NominalScannedPixelSpacing", "FrameOfReferenceUID"),
    *("ImagePositionPatient", "ImageOrientationPatient", "LossyImageCompression"),
    *("LossyImageCompressionRatio", "LossyImageCompressionMethod", "ClinicalTrialSponsorName"),
    *("ClinicalTrialProtocolID", "ClinicalTrialSubjectID", "ClinicalTrialSiteID"),
]
IDENTIFIERS = ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"]


def representation_of(keyword: str) -> str:
    return str(pydicom.datadict.dictionary_VR(Tag(keyword)))


@st.composite
def headers(draw: st.DrawFn) -> dict[str, bytes]:
    """Draw raw values for some attributes; empty ones stand for missing values too."""
    chosen = draw(st.lists(st.sampled_from(KEYWORDS), max_size=12, unique=True))
    values = {
        key: draw(st.sampled_from(BY_REPRESENTATION[representation_of(key)])) for key in chosen
    }
    terms = draw(st.lists(st.sampled_from(TERMS), max_size=3))
    if terms:
        values["SpecificCharacterSet"] = b"\\".join(terms)
    if draw(st.integers(0, 9)) == 0:
        values[draw(st.sampled_from(IDENTIFIERS))] = draw(st.sampled_from(UIDS))
    return values


def file_of(values: dict[str, bytes], missing: list[str], *, is_multiframe: bool) -> bytes:
    xray = make_xray()
    xray.private_block(0x0009, "LUNG TEST", create=True).add_new(1, "UN", b"\xff\xfe\x00\x00")
    if is_multiframe:
        xray.SOPClassUID = f"{SecondaryCaptureImageStorage}.3"
        xray.NumberOfFrames = 1
    return raw_file(xray, values, missing)


def segmented(file: bytes) -> bytes:
    """Answer as the service does, on one mask."""
    decoded = read_upload(file, max_pixels=1_000_000)
    assert decoded.dicom is not None
    header = read_source_header(decoded.dicom)
    mask = np.zeros(decoded.pixels.shape, bool)
    mask[5:20, 5:30] = True
    method = SegmentationMethod(FakeInfo(), "lung_field", 0.5)
    return encode_dicom_segmentation(header, [Segment(mask)], method)


def assert_is_valid(data: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = pydicom.dcmread(io.BytesIO(data))
        _convert_all(dataset)
    assert dataset.SpecificCharacterSet == "ISO_IR 192"
    assert dataset.PatientSex in ("", "M", "F", "O")
    assert np.count_nonzero(dataset.pixel_array) == 15 * 25
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "StudyDate", "StudyTime"):
        assert keyword in dataset
    (shared,) = dataset.SharedFunctionalGroupsSequence
    for measures in shared.get("PixelMeasuresSequence", ()):
        assert all(value > 0 for value in measures.PixelSpacing)


def _convert_all(dataset: Dataset) -> None:
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                _convert_all(item)
        elif element.VR != "UI":  # a source's UID may hold a component that begins with zero
            str(element.value)


@settings(
    max_examples=150, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck)
)
@given(
    values=headers(),
    missing=st.lists(st.sampled_from(KEYWORDS), max_size=4),
    is_multiframe=st.booleans(),
)
def test_any_header_gives_a_valid_segmentation_or_a_refusal_that_names_no_value(
    values: dict[str, bytes], missing: list[str], is_multiframe: bool
) -> None:
    file = file_of(values, missing, is_multiframe=is_multiframe)
    try:
        data = segmented(file)
    except ServiceError as error:
        assert error.status == 422
        assert any(keyword in error.detail for keyword in IDENTIFIERS)
        assert set(values) & set(IDENTIFIERS)  # nothing else is a reason
    else:
        assert_is_valid(data)


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dicom3tools is not installed")
def test_dciodvfy_finds_no_error_in_the_segmentations_of_odd_headers() -> None:
    generator = np.random.default_rng(22)
    with tempfile.NamedTemporaryFile(suffix=".dcm") as file:
        for _ in range(40):
            values = _random_header(generator)
            data = segmented(file_of(values, [], is_multiframe=False))
            file.seek(0)
            file.truncate()
            file.write(data)
            file.flush()
            found = subprocess.run(
                ["dciodvfy", "-new", file.name], capture_output=True, text=True, check=False
            )
            errors = [line for line in found.stderr.splitlines() if line.startswith("Error")]
            assert errors == [], values


def _random_header(generator: Any) -> dict[str, bytes]:
    chosen = generator.choice(KEYWORDS, size=10, replace=False)
    values = {}
    for keyword in chosen:
        choices = BY_REPRESENTATION[representation_of(str(keyword))]
        values[str(keyword)] = choices[generator.integers(len(choices))]
    values["SpecificCharacterSet"] = b"\\".join(
        TERMS[generator.integers(len(TERMS))] for _ in range(generator.integers(1, 3))
    )
    return values
