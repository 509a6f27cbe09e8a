"""Masks as DICOM Segmentation objects, read back with the public libraries."""

from __future__ import annotations

import io
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
from dicom_files import DX, PATIENT, as_file, make_xray
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from model_store.pictures.picture_reading import read_picture
from service.errors import InvalidField
from service.imaging.dicom_segmentation import encode_dicom_segmentation


@dataclass(frozen=True)
class Model:
    """The model as the object names it."""

    name: str = "lung-model"
    version: str = "7"
    sha256: str = "ab" * 32


def header(**attributes: Any) -> Dataset:
    decoded = read_picture(as_file(make_xray(**attributes)), max_pixels=1_000_000)
    assert decoded.dicom is not None
    return decoded.dicom


def masks() -> list[NDArray[np.bool_]]:
    left, right = np.zeros((48, 64), bool), np.zeros((48, 64), bool)
    left[5:40, 4:30] = True
    right[6:41, 25:60] = True  # overlaps the first
    return [left, right]


def test_pixels_come_back_as_they_were() -> None:
    data = encode_dicom_segmentation(header(), masks(), Model())
    segmentation = highdicom.seg.segread(io.BytesIO(data))
    for number, mask in enumerate(masks(), start=1):
        (uid,) = [uid for _, _, uid in segmentation.get_source_image_uids()]
        (got,) = segmentation.get_pixels_by_source_instance([uid], segment_numbers=[number])
        assert np.array_equal(got[..., 0].astype(bool), mask)
    assert np.array_equal(pydicom.dcmread(io.BytesIO(data)).pixel_array.astype(bool), masks())


def test_one_mask_gives_one_segment() -> None:
    data = encode_dicom_segmentation(header(), masks()[:1], Model(), convention="lung_field")
    dataset = pydicom.dcmread(io.BytesIO(data))
    assert dataset.SOPClassUID == pydicom.uid.SegmentationStorage
    assert [each.SegmentLabel for each in dataset.SegmentSequence] == ["Lung (lung_field)"]
    assert np.array_equal(dataset.pixel_array.astype(bool), masks()[0])


def test_it_names_the_patient_the_xray_the_anatomy_and_the_model() -> None:
    source = header()
    dataset = pydicom.dcmread(io.BytesIO(encode_dicom_segmentation(source, masks(), Model())))
    assert dataset.PatientName == PATIENT
    assert dataset.StudyInstanceUID == source.StudyInstanceUID
    assert dataset.SeriesInstanceUID != source.SeriesInstanceUID
    (reference,) = dataset.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert reference.ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert reference.ReferencedSOPClassUID == DX
    for segment in dataset.SegmentSequence:
        (kind,) = segment.SegmentedPropertyTypeCodeSequence
        assert (kind.CodeValue, kind.CodingSchemeDesignator) == ("39607008", "SCT")  # lung
        (algorithm,) = segment.SegmentationAlgorithmIdentificationSequence
        assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("lung-model", "7")
        assert "ab" * 32 in str(algorithm.AlgorithmParameters)
        assert segment.SegmentAlgorithmType == "AUTOMATIC"


def test_a_box_makes_it_semiautomatic() -> None:
    data = encode_dicom_segmentation(header(), masks()[:1], Model(), is_prompted=True)
    (segment,) = pydicom.dcmread(io.BytesIO(data)).SegmentSequence
    assert segment.SegmentAlgorithmType == "SEMIAUTOMATIC"


def test_an_empty_mask_is_kept_as_an_empty_segment() -> None:
    empty = np.zeros((48, 64), bool)
    dataset = pydicom.dcmread(
        io.BytesIO(encode_dicom_segmentation(header(), [empty, masks()[0]], Model()))
    )
    assert len(dataset.SegmentSequence) == 2
    assert not dataset.pixel_array[0].any()
    assert np.array_equal(dataset.pixel_array[1].astype(bool), masks()[0])


def test_empty_patient_attributes_are_no_obstacle() -> None:
    source = header(PatientName=None, PatientID=None, StudyID=None)
    dataset = pydicom.dcmread(io.BytesIO(encode_dicom_segmentation(source, masks(), Model())))
    assert not dataset.PatientID


def test_an_xray_without_identifiers_cannot_be_referred_to() -> None:
    with pytest.raises(InvalidField, match="identifiers"):
        encode_dicom_segmentation(header(StudyInstanceUID=None), masks(), Model())


def test_masks_of_another_shape_are_an_error() -> None:
    with pytest.raises(ValueError, match="shape"):
        encode_dicom_segmentation(header(), [np.zeros((48, 63), bool)], Model())
    with pytest.raises(ValueError, match="one or more"):
        encode_dicom_segmentation(header(), [], Model())


def test_the_source_is_not_changed() -> None:
    source = header(StudyID=None)
    before = str(source)
    encode_dicom_segmentation(source, masks(), Model())
    assert str(source) == before


def test_highdicom_is_not_imported_until_it_is_needed() -> None:
    code = "import sys, service.imaging.dicom_segmentation; sys.exit('highdicom' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
