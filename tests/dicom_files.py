"""Small DICOM X-rays for tests, written from scratch; their patient does not exist."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, generate_uid

DX = "1.2.840.10008.5.1.4.1.1.1.1"
PATIENT = "Mustermann^Erika"


def ramp_12_bit(height: int = 48, width: int = 64) -> NDArray[np.uint16]:
    """Returns distinct 12-bit values, (H, W)."""
    values = np.arange(height * width, dtype=np.uint16).reshape(height, width)
    return (values % 4096).astype(np.uint16)


def make_xray(
    pixels: NDArray[Any] | None = None, *, bits_stored: int = 12, **attributes: Any
) -> Dataset:
    """Returns a DX object with native pixels.

    Args:
        pixels: (H, W) or (H, W, 3), 8 or 16 bits; a 12-bit ramp when left out.
        bits_stored: bits that carry the value.
        attributes: set, or deleted where None, after everything else.
    """
    pixels = ramp_12_bit() if pixels is None else pixels
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = UID(DX)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
    dataset.Modality, dataset.BodyPartExamined, dataset.ViewPosition = "DX", "CHEST", "PA"
    dataset.PatientName, dataset.PatientID, dataset.StudyID = PATIENT, "4711", "S1"
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    dataset.PhotometricInterpretation = "RGB" if pixels.ndim == 3 else "MONOCHROME2"
    if pixels.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = pixels.dtype.itemsize * 8
    dataset.BitsStored, dataset.HighBit = bits_stored, bits_stored - 1
    dataset.PixelRepresentation = int(np.issubdtype(pixels.dtype, np.signedinteger))
    dataset.add_new("PixelData", "OW" if dataset.BitsAllocated == 16 else "OB", pixels.tobytes())
    for keyword, value in attributes.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    return dataset


def as_file(dataset: Dataset) -> bytes:
    """Returns the bytes of a DICOM file with preamble and file meta information."""
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def as_big_endian_file(dataset: Dataset, pixels: NDArray[np.uint16]) -> bytes:
    """Returns the same X-ray in explicit VR big endian."""
    dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    dataset.PixelData = pixels.astype(">u2").tobytes()
    return as_file(dataset)
