"""Small DICOM X-rays for tests, written from scratch; their patient does not exist."""

from __future__ import annotations

import io
import struct
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pydicom
import pydicom.config
from numpy.typing import NDArray
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import write_file_meta_info
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, generate_uid

DX = "1.2.840.10008.5.1.4.1.1.1.1"
PATIENT = "Mustermann^Erika"
# The names of PS3.5 H, I and K, as bytes of ISO 2022 IR 87, 149 and 58.
YAMADA = b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B"
HONG = (
    b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf"
)
ZHANG = b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab"


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
            dataset.add(_unchecked(keyword, value))
    return dataset


def _unchecked(keyword: str, value: Any) -> DataElement:
    """Returns an element whatever its value; hospitals' files hold what the standard forbids."""
    return DataElement(
        keyword, dictionary_VR(keyword), value, validation_mode=pydicom.config.IGNORE
    )


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


def raw_file(dataset: Dataset, values: Mapping[str, bytes], missing: Collection[str] = ()) -> bytes:
    """Returns a file in which some attributes hold these very bytes, valid or not.

    Args:
        dataset: the X-ray, explicit VR little endian.
        values: bytes by keyword; an odd number of them is padded with a space.
        missing: keywords to leave out.
    """
    parsed = pydicom.dcmread(io.BytesIO(as_file(dataset)))
    elements = {int(tag): _encoded(parsed.get_item(tag)) for tag in list(parsed.keys())}
    for keyword, value in values.items():
        tag = Tag(keyword)
        raw = value + b" " * (len(value) % 2)
        elements[int(tag)] = _encoded(_raw_element(tag, raw))
    for keyword in missing:
        elements.pop(int(Tag(keyword)), None)
    head = io.BytesIO(b"\0" * 128 + b"DICM")
    head.seek(0, io.SEEK_END)
    write_file_meta_info(head, parsed.file_meta)  # type: ignore[arg-type]
    return head.getvalue() + b"".join(elements[tag] for tag in sorted(elements))


def _raw_element(tag: BaseTag, value: bytes) -> RawDataElement:
    representation = dictionary_VR(tag)
    return RawDataElement(tag, representation, len(value), value, 0, False, True, is_raw=True)


def _encoded(element: Any) -> bytes:
    """Returns a raw element in explicit VR little endian."""
    tag = struct.pack("<HH", element.tag.group, element.tag.element)
    if element.VR in ("OB", "OW", "SQ", "UN", "UT"):
        return tag + element.VR.encode() + struct.pack("<HI", 0, len(element.value)) + element.value
    return tag + element.VR.encode() + struct.pack("<H", len(element.value)) + element.value
