"""X-rays written as kinds of file that earlier versions read differently, and as plain files.

Each writer takes an X-ray of 8 bits and returns the file. Some kinds store the picture turned, as
their header states; the mask is turned with it.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

MOST_12_BIT, WHITE_16_BIT = 4095, 65_535
BORDER_SHARE = 0.03
SATURATED_SHARE = 0.1
_DX = UID("1.2.840.10008.5.1.4.1.1.1.1")
_PNG_HEADER = b"\x89PNG\r\n\x1a\n"
Grey = NDArray[np.uint8]


@dataclass(frozen=True)
class Kind:
    """One way to write an X-ray.

    Attributes:
        write: returns the file of grey values, (H, W), which are already turned by `quarters`.
        quarters: quarter turns of the stored picture, counterclockwise.
        is_mirrored: whether the stored picture is mirrored left to right instead.
    """

    write: Callable[[Grey], bytes]
    quarters: int = 0
    is_mirrored: bool = False

    def as_stored(self, upright: NDArray[Any]) -> NDArray[Any]:
        """Return pixels or a mask in the orientation in which such a file stores them."""
        turned = np.rot90(upright, self.quarters)
        return np.ascontiguousarray(turned[:, ::-1] if self.is_mirrored else turned)


def dicom_file(stored: NDArray[np.uint16], **attributes: Any) -> bytes:
    """Return a DICOM file of 16 bits with further attributes."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = _DX
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = UID("2.25.1")
    dataset.Rows, dataset.Columns = stored.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.PixelRepresentation = 0
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    dataset.add_new("PixelData", "OW", stored.astype("<u2").tobytes())
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _twelve_bits(grey: Grey) -> NDArray[np.uint16]:
    return (grey.astype(np.uint32) * MOST_12_BIT // 255).astype(np.uint16)


def _plain(**attributes: Any) -> Callable[[Grey], bytes]:
    return lambda grey: dicom_file(_twelve_bits(grey), **attributes)


def _inverted(**attributes: Any) -> Callable[[Grey], bytes]:
    return lambda grey: dicom_file(MOST_12_BIT - _twelve_bits(grey), **attributes)


def _with_border(stored: NDArray[np.uint16], value: int) -> NDArray[np.uint16]:
    edge = max(1, round(BORDER_SHARE * max(stored.shape)))
    bordered = stored.copy()
    bordered[:edge] = bordered[-edge:] = bordered[:, :edge] = bordered[:, -edge:] = value
    return bordered


def _white_border(grey: Grey) -> bytes:
    stored = _with_border(_twelve_bits(grey), WHITE_16_BIT)
    return dicom_file(stored, WindowCenter=2048, WindowWidth=4096)


def _padding_as_tissue(grey: Grey) -> bytes:
    """Return a file whose brightest tenth has the same value as the padding around the X-ray."""
    stored = _twelve_bits(grey)
    stored[stored >= np.quantile(stored, 1 - SATURATED_SHARE)] = MOST_12_BIT
    return dicom_file(_with_border(stored, MOST_12_BIT), PixelPaddingValue=MOST_12_BIT)


def _falling_table(grey: Grey) -> bytes:
    table = Dataset()
    table.LUTDescriptor = [MOST_12_BIT + 1, 0, 16]
    falling = np.linspace(WHITE_16_BIT, 0, MOST_12_BIT + 1).astype("<u2")
    table.add_new("LUTData", "OW", falling.tobytes())
    return dicom_file(MOST_12_BIT - _twelve_bits(grey), VOILUTSequence=[table])


def _chunk(name: bytes, content: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + check


def _png_4_bits(grey: Grey) -> bytes:
    """Return a PNG of 16 levels, with a border of the level that is declared transparent."""
    levels = _with_border((grey >> 4).astype(np.uint16), 15).astype(np.uint8)
    height, width = levels.shape
    even = np.pad(levels, ((0, 0), (0, width % 2)))
    rows = np.pad(even[:, ::2] << 4 | even[:, 1::2], ((0, 0), (1, 0)))  # filter 0 before each row
    header = struct.pack(">IIBBBBB", width, height, 4, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"tRNS", struct.pack(">H", 15)),
              (b"IDAT", zlib.compress(rows.tobytes())), (b"IEND", b""))  # fmt: skip
    return _PNG_HEADER + b"".join(_chunk(*chunk) for chunk in chunks)


def _png_16_bits(grey: Grey) -> bytes:
    return bytes(imagecodecs.png_encode(_twelve_bits(grey) * 16))


def _png_colour_16_bits(grey: Grey) -> bytes:
    """Return a colour PNG of 16 bits that holds 12-bit grey in the low bits of each channel."""
    return bytes(imagecodecs.png_encode(np.repeat(_twelve_bits(grey)[..., None], 3, axis=2)))


KINDS: Mapping[str, Kind] = {
    "PNG of 16 bits": Kind(_png_16_bits),
    "DICOM with a window": Kind(_plain(WindowCenter=2048, WindowWidth=4096)),
    "DICOM, MONOCHROME1": Kind(_inverted(PhotometricInterpretation="MONOCHROME1")),
    "DICOM turned by a quarter": Kind(_plain(PatientOrientation=["F", "R"]), quarters=1),
    "DICOM upside down": Kind(_plain(PatientOrientation=["R", "H"]), quarters=2),
    "DICOM turned by three quarters": Kind(_plain(PatientOrientation=["H", "L"]), quarters=3),
    "DICOM mirrored": Kind(_plain(PatientOrientation=["R", "F"]), is_mirrored=True),
    "DICOM, white border outside its window": Kind(_white_border),
    "DICOM, padding as bright as tissue": Kind(_padding_as_tissue),
    "DICOM, falling VOI table": Kind(_falling_table),
    "DICOM, INVERSE presentation": Kind(_inverted(PresentationLUTShape="INVERSE")),
    "PNG of 4 bits, white transparent": Kind(_png_4_bits),
    "PNG, colour, 16 bits, dark": Kind(_png_colour_16_bits),
}
