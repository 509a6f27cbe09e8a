"""Milliseconds of decoding a DICOM X-ray and checking its header, also against another version.

`python -m benchmarks.service.dicom_reading [--beside FOLDER] [--count 15]` decodes an uncompressed
X-ray of 2048 x 2048 pixels and 16 bits with a window. It also reads the header values that an
answer in DICOM repeats. A checkout made by `git worktree add FOLDER COMMIT` decodes the same file
alternately. The exit code is 1 if the header takes a millisecond, or decoding more than 1.1 of the
other's time.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from benchmarks.processor import processor_name
from benchmarks.service.honest_files import xray_12_bit
from model_store.pictures.picture_reading import read_picture
from service.imaging.dicom_header import read_source_header

SIDE = 2048
MOST_HEADER_MS, MOST_OF_THE_OTHER = 1.0, 1.1
_DX = UID("1.2.840.10008.5.1.4.1.1.1.1")
_DECODES = (
    "import sys, time, statistics, pathlib\n"
    "from model_store.pictures.picture_reading import read_picture\n"
    "data = pathlib.Path(sys.argv[1]).read_bytes()\n"
    "times = []\n"
    "for _ in range(int(sys.argv[2]) + 2):\n"
    "    began = time.perf_counter()\n"
    "    read_picture(data, max_pixels=10**8)\n"
    "    times.append(time.perf_counter() - began)\n"
    "print(statistics.median(times[2:]) * 1000)\n"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print.

    Args:
        arguments: command-line arguments; those of the process when None.

    Returns:
        Exit code of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--beside", type=Path, help="another checkout")
    parser.add_argument("--count", type=int, default=15, help="decodings in each turn")
    parser.add_argument("--turns", type=int, default=5, help="turns of each version")
    asked = parser.parse_args(arguments)
    data = windowed_xray()
    header_ms = _header_ms(data)
    print(f"{processor_name()}, {SIDE} x {SIDE} pixels of 16 bits with a window")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "xray.dcm"
        path.write_bytes(data)
        here, there = [], []
        for _ in range(asked.turns):
            here.append(_decoding_ms(Path.cwd(), path, asked.count))
            if asked.beside is not None:
                there.append(_decoding_ms(asked.beside, path, asked.count))
    figures: dict[str, float] = {
        "header_ms": round(header_ms, 3),
        "decoding_ms": round(statistics.median(here), 2),
    }
    if there:
        figures["other_decoding_ms"] = round(statistics.median(there), 2)
        pairs = zip(here, there, strict=True)
        figures["share"] = round(statistics.median(one / other for one, other in pairs), 3)
    for name, value in figures.items():
        print(f"{name:<20} {value:>8}")
    print(json.dumps(figures))
    is_slow = figures.get("share", 0.0) > MOST_OF_THE_OTHER or header_ms >= MOST_HEADER_MS
    return int(is_slow)


def windowed_xray() -> bytes:
    """Return a DICOM file with a typical modality header, 16 bits and a window."""
    pixels = (xray_12_bit(SIDE, 12.0).astype(np.uint32) * 16).astype(np.uint16)
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = _DX
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = UID("2.25.1")
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "2.25.2", "2.25.3"
    dataset.SpecificCharacterSet, dataset.PatientName = "ISO_IR 100", "Nobody^Now=="
    dataset.PatientID, dataset.PatientSex, dataset.PatientBirthDate = "1", "O", "19700101"
    dataset.StudyDate, dataset.StudyTime = "20260101", "101010.5"
    dataset.Modality, dataset.BodyPartExamined, dataset.ViewPosition = "DX", "CHEST", "PA"
    dataset.ImagerPixelSpacing, dataset.PatientOrientation = [0.2, 0.2], ["L", "F"]
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.PixelRepresentation = 0
    dataset.WindowCenter, dataset.WindowWidth = 32_000, 50_000
    dataset.add_new("PixelData", "OW", pixels.tobytes())
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _header_ms(data: bytes) -> float:
    """Return the median time of reading all header values that an answer in DICOM repeats."""
    times = []
    for _ in range(20):  # pydicom converts a value once, so each header is a new one
        dicom = read_picture(data, max_pixels=10**8).dicom
        assert dicom is not None
        began = time.perf_counter()
        read_source_header(dicom)
        times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times)


def _decoding_ms(checkout: Path, path: Path, count: int) -> float:
    command = [sys.executable, "-c", _DECODES, str(path), str(count)]
    environment = {**os.environ, "PYTHONPATH": str(checkout.resolve())}
    done = subprocess.run(
        command, cwd=checkout, env=environment, capture_output=True, text=True, check=True
    )
    return float(done.stdout)


if __name__ == "__main__":
    sys.exit(main())
