"""The repository's synthetic chest phantom as a DICOM X-ray, to try the deployment without data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

PHANTOM = Path(__file__).parents[2] / "examples" / "phantom.png"
_SPACING_MM = 0.35  # of a detector of 36 cm


def write_phantom(path: Path) -> None:
    """Write the phantom; its UIDs are constant, so that an archive stores it only once.

    Args:
        path: the DICOM file.
    """
    with Image.open(PHANTOM) as picture:
        pixels = np.asarray(picture.convert("L"))
    study, series, instance = (
        generate_uid(entropy_srcs=["lung segmentation phantom", level])
        for level in ("study", "series", "instance")
    )
    xray = Dataset()
    xray.file_meta = FileMetaDataset()
    xray.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    xray.SOPClassUID = ComputedRadiographyImageStorage
    xray.StudyInstanceUID, xray.SeriesInstanceUID, xray.SOPInstanceUID = study, series, instance
    xray.PatientName, xray.PatientID = "Phantom^Chest", "PHANTOM"
    xray.PatientBirthDate, xray.PatientSex = "", "O"
    xray.StudyDate, xray.StudyTime = "20260101", "120000"
    xray.StudyID, xray.AccessionNumber = "1", ""
    xray.ReferringPhysicianName, xray.Manufacturer = "", "AdaLoRA-QAT"
    xray.StudyDescription, xray.SeriesDescription = "Synthetic chest phantom", "Phantom"
    xray.Modality, xray.BodyPartExamined, xray.ViewPosition = "CR", "CHEST", "PA"
    xray.SeriesNumber, xray.InstanceNumber = 1, 1
    xray.PatientOrientation = ["L", "F"]
    xray.ImagerPixelSpacing = [_SPACING_MM, _SPACING_MM]
    xray.ImageType = ["DERIVED", "PRIMARY"]
    xray.BurnedInAnnotation, xray.LossyImageCompression = "NO", "00"
    xray.Rows, xray.Columns = pixels.shape
    xray.SamplesPerPixel, xray.PhotometricInterpretation = 1, "MONOCHROME2"
    xray.BitsAllocated, xray.BitsStored, xray.HighBit, xray.PixelRepresentation = 8, 8, 7, 0
    xray.add_new("PixelData", "OB", pixels.tobytes())
    xray.save_as(path, enforce_file_format=True)
