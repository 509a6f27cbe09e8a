"""Masks as DICOM Segmentation objects, read back with the public libraries."""

from __future__ import annotations

import dataclasses
import io
import subprocess
import sys
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from service.imaging.dicom_header import SourceHeader, read_source_header
from service.imaging.dicom_object import SegmentationMethod
from service.imaging.dicom_options import ObjectOptions, PlaneChoice
from service.imaging.dicom_segmentation import Segment, encode_dicom_segmentation
from service.imaging.picture_errors import read_upload
from tests.dicom_files import DX, PATIENT, YAMADA, as_file, make_xray, raw_file


@dataclasses.dataclass(frozen=True)
class Model:
    """The model as the object names it."""

    name: str = "lung-model"
    version: str = "7"
    sha256: str = "ab" * 32


METHOD = SegmentationMethod(Model(), "lung_field", 0.5)


def header(**attributes: Any) -> SourceHeader:
    return header_of(as_file(make_xray(**attributes)))


def header_of(file: bytes) -> SourceHeader:
    decoded = read_upload(file, max_pixels=1_000_000)
    assert decoded.dicom is not None
    return read_source_header(decoded.dicom)


def masks() -> list[NDArray[np.bool_]]:
    left, right = np.zeros((48, 64), bool), np.zeros((48, 64), bool)
    left[5:40, 4:30] = True
    right[6:41, 25:60] = True  # overlaps the first
    return [left, right]


def segments(*structures: str) -> list[Segment]:
    return [Segment(*pair) for pair in zip(masks(), structures, strict=False)]


BOTH = segments("lungs", "lungs")


def encoded(
    source: SourceHeader | None = None,
    of: list[Segment] = BOTH,
    method: SegmentationMethod = METHOD,
    options: ObjectOptions = ObjectOptions(),  # noqa: B008
) -> Dataset:
    data = encode_dicom_segmentation(source or header(), of, method, options)
    return pydicom.dcmread(io.BytesIO(data))


def test_pixels_come_back_as_they_were() -> None:
    data = encode_dicom_segmentation(header(), BOTH, METHOD)
    segmentation = highdicom.seg.segread(io.BytesIO(data))
    for number, mask in enumerate(masks(), start=1):
        (uid,) = [uid for _, _, uid in segmentation.get_source_image_uids()]
        (got,) = segmentation.get_pixels_by_source_instance([uid], segment_numbers=[number])
        assert np.array_equal(got[..., 0].astype(bool), mask)
    assert np.array_equal(pydicom.dcmread(io.BytesIO(data)).pixel_array.astype(bool), masks())


def test_one_mask_gives_one_segment() -> None:
    dataset = encoded(of=segments("lungs"))
    assert dataset.SOPClassUID == pydicom.uid.SegmentationStorage
    assert [each.SegmentLabel for each in dataset.SegmentSequence] == ["Lung (lung_field)"]
    assert np.array_equal(dataset.pixel_array.astype(bool), masks()[0])


def test_several_masks_of_one_structure_are_numbered() -> None:
    labels = [each.SegmentLabel for each in encoded().SegmentSequence]
    assert labels == ["Lung 1 (lung_field)", "Lung 2 (lung_field)"]


def test_it_names_the_patient_the_xray_the_anatomy_and_the_model() -> None:
    source = header()
    dataset = encoded(source)
    assert dataset.PatientName == PATIENT
    assert dataset.StudyInstanceUID == source.study_instance_uid
    assert dataset.SeriesInstanceUID != source.series_instance_uid
    (reference,) = dataset.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert reference.ReferencedSOPInstanceUID == source.sop_instance_uid
    assert reference.ReferencedSOPClassUID == DX
    assert dataset.BodyPartExamined == "CHEST"
    for segment in dataset.SegmentSequence:
        (kind,) = segment.SegmentedPropertyTypeCodeSequence
        assert (kind.CodeValue, kind.CodingSchemeDesignator) == ("39607008", "SCT")  # lung
        assert "SegmentedPropertyTypeModifierCodeSequence" not in kind
        (algorithm,) = segment.SegmentationAlgorithmIdentificationSequence
        assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("lung-model", "7")
        assert "ab" * 32 in algorithm.AlgorithmParameters
        assert "threshold=0.5" in algorithm.AlgorithmParameters
        assert "convention=lung_field" in algorithm.AlgorithmParameters
        assert segment.SegmentAlgorithmType == "AUTOMATIC"


def test_separate_lungs_are_coded_with_the_patients_side_and_a_colour_each() -> None:
    right, left = encoded(of=segments("right_lung", "left_lung")).SegmentSequence
    codes = []
    for segment in (right, left):
        (kind,) = segment.SegmentedPropertyTypeCodeSequence
        (side,) = kind.SegmentedPropertyTypeModifierCodeSequence
        codes.append((kind.CodeMeaning, side.CodeValue, side.CodeMeaning))
    assert codes == [("Lung", "24028007", "Right"), ("Lung", "7771000", "Left")]
    assert right.SegmentLabel == "Right lung (lung_field)"
    assert right.RecommendedDisplayCIELabValue != left.RecommendedDisplayCIELabValue


def test_a_box_makes_it_semiautomatic() -> None:
    prompted = dataclasses.replace(METHOD, is_prompted=True)
    (segment,) = encoded(of=segments("lungs"), method=prompted).SegmentSequence
    assert segment.SegmentAlgorithmType == "SEMIAUTOMATIC"


def test_an_empty_mask_is_kept_as_an_empty_segment() -> None:
    empty = Segment(np.zeros((48, 64), bool))
    dataset = encoded(of=[empty, BOTH[0]])
    assert len(dataset.SegmentSequence) == 2
    assert not dataset.pixel_array[0].any()
    assert np.array_equal(dataset.pixel_array[1].astype(bool), masks()[0])


def test_masks_of_another_shape_are_an_error() -> None:
    with pytest.raises(ValueError, match="shape"):
        encoded(of=[Segment(np.zeros((48, 63), bool))])
    with pytest.raises(ValueError, match="one or more"):
        encoded(of=[])


def test_a_japanese_name_is_written_in_unicode() -> None:
    values = {"SpecificCharacterSet": b"\\ISO 2022 IR 87", "PatientName": YAMADA}
    dataset = encoded(header_of(raw_file(make_xray(), values)))
    assert dataset.SpecificCharacterSet == "ISO_IR 192"
    assert dataset.PatientName == "Yamada^Tarou=山田^太郎=やまだ^たろう"


def test_what_an_archive_needs_stays_even_if_empty() -> None:
    dataset = encoded(header(PatientName=None, PatientID=None, StudyID=None))
    for keyword in ("PatientName", "PatientID", "PatientSex", "StudyDate", "ContentCreatorName"):
        assert not dataset[keyword].value


def test_the_plane_of_the_xray_wins() -> None:
    plane = {
        "FrameOfReferenceUID": "1.2.3.4",
        "ImagePositionPatient": [1, 2, 3],
        "ImageOrientationPatient": [1, 0, 0, 0, 0, -1],
    }
    dataset = encoded(header(PixelSpacing=[0.2, 0.3], **plane))
    (shared,) = dataset.SharedFunctionalGroupsSequence
    assert dataset.FrameOfReferenceUID == "1.2.3.4"
    assert shared.PlaneOrientationSequence[0].ImageOrientationPatient == [1, 0, 0, 0, 0, -1]
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        assert frame.PlanePositionSequence[0].ImagePositionPatient == [1, 2, 3]
    assert shared.PixelMeasuresSequence[0].PixelSpacing == [0.2, 0.3]
    assert "detector" not in dataset.ContentDescription


def test_without_a_plane_the_detectors_is_written_and_said() -> None:
    """In a frame of reference of the image's own: another image's masks are elsewhere."""
    dataset, other = encoded(header()), encoded(header())
    (shared,) = dataset.SharedFunctionalGroupsSequence
    assert "detector plane, not patient coordinates" in dataset.ContentDescription
    assert shared.PlaneOrientationSequence[0].ImageOrientationPatient == [1, 0, 0, 0, 1, 0]
    assert "PixelMeasuresSequence" not in shared  # nothing is known of the pixels' size
    assert dataset.FrameOfReferenceUID != dataset.StudyInstanceUID
    assert dataset.FrameOfReferenceUID != other.FrameOfReferenceUID


def test_a_plane_of_the_deployments_choice_is_none() -> None:
    dataset = encoded(
        header(PatientOrientation=["L", "F"]), options=ObjectOptions(plane=PlaneChoice.NONE)
    )
    assert "FrameOfReferenceUID" not in dataset
    assert "PlaneOrientationSequence" not in dataset.SharedFunctionalGroupsSequence[0]
    assert dataset.PatientOrientation == ["L", "F"]  # type 2C then


def test_the_detectors_spacing_is_written_and_called_so() -> None:
    dataset = encoded(header(ImagerPixelSpacing=[0.14, 0.15]))
    (measures,) = dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
    assert measures.PixelSpacing == [0.14, 0.15]
    assert measures.SliceThickness == 1
    assert "on the detector" in dataset.DerivationDescription


def test_the_same_request_gives_the_same_object() -> None:
    source = header(StudyDate="20260101", StudyTime="1010", TimezoneOffsetFromUTC="+0100")
    data = encode_dicom_segmentation(source, BOTH, METHOD)
    assert encode_dicom_segmentation(source, BOTH, METHOD) == data
    dataset = pydicom.dcmread(io.BytesIO(data))
    assert (dataset.ContentDate, dataset.ContentTime) == ("20260101", "1010")
    assert dataset.TimezoneOffsetFromUTC == "+0100"
    assert dataset.file_meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID


def uids_of(dataset: Dataset) -> tuple[str, str]:
    return dataset.SOPInstanceUID, dataset.SeriesInstanceUID


def test_any_difference_gives_other_uids() -> None:
    source = header()
    one_pixel_more = [Segment(masks()[0]), Segment(masks()[1] | np.eye(48, 64, dtype=bool))]
    changed = {
        "pixels": encoded(source, one_pixel_more),
        "structure": encoded(source, segments("lungs", "left_lung")),
        "weights": encoded(source, method=SegmentationMethod(Model(sha256="cd" * 32))),
        "version": encoded(source, method=SegmentationMethod(Model(version="8"))),
        "threshold": encoded(source, method=SegmentationMethod(Model(), "lung_field", 0.6)),
        "convention": encoded(source, method=SegmentationMethod(Model(), "whole_lung", 0.5)),
        "X-ray": encoded(dataclasses.replace(source, sop_instance_uid="1.2.3.4.5")),
        "key": encoded(source, options=ObjectOptions(uid_key="secret")),
        "nothing": encoded(source),
    }
    found = [uids_of(dataset) for dataset in changed.values()]
    assert len({uid for pair in found for uid in pair}) == 2 * len(changed)
    again = encoded(source, options=ObjectOptions(uid_key="secret"))
    assert uids_of(again) == uids_of(changed["key"])


def test_a_corrected_date_is_the_same_object() -> None:
    source = header(StudyDate="20260101")
    later = dataclasses.replace(source, content_date="20260102")
    assert uids_of(encoded(source)) == uids_of(encoded(later))


def test_the_machine_that_took_the_xray_is_named() -> None:
    dataset = encoded(header(Manufacturer="Röntgen AG", SpecificCharacterSet="ISO_IR 192"))
    equipment = {
        item.PurposeOfReferenceCodeSequence[0].CodeMeaning: item.Manufacturer
        for item in dataset.ContributingEquipmentSequence
    }
    assert equipment["Acquisition Equipment"] == "Röntgen AG"
    assert "ContributionDateTime" not in dataset.ContributingEquipmentSequence[0]


def test_an_uncaretted_name_reaches_no_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    encoded(header(PatientName="ZEBEDEECANARY", PatientID="ZEBEDEECANARY"))
    assert "ZEBEDEECANARY" not in caplog.text


def test_the_source_is_not_changed() -> None:
    source = make_xray(StudyID=None)
    before = str(source)
    encoded(read_source_header(source))
    assert str(source) == before


def test_highdicom_is_not_imported_until_it_is_needed() -> None:
    code = "import sys, service.imaging.dicom_segmentation; sys.exit('highdicom' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("count", [1, 2, 3])
def test_masks_apart_make_the_same_object_as_a_stack_of_them(
    monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    shown = [np.zeros((48, 64), bool) for _ in range(count)]
    for number, mask in enumerate(shown):
        mask[5:40, 20 * number : 20 * number + 18] = number != 1  # the second is empty
    source, of = header(), [Segment(mask, "lungs") for mask in shown]
    apart = encode_dicom_segmentation(source, of, METHOD)
    monkeypatch.setattr(
        "service.imaging.dicom_segmentation._labels_or_stack",
        lambda found: np.stack(found, axis=-1).astype(np.uint8),
    )
    assert encode_dicom_segmentation(source, of, METHOD) == apart
