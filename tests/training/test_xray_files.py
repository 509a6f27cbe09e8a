"""X-rays in any format that the service reads, and masks that are refused rather than guessed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from training.data.dataset import load_xray, read_rows
from training.data.xray_files import read_mask_pixels, read_xray
from training.errors import DataError
from training.phantom.dataset import write_phantom_dataset


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_phantom_dataset(tmp_path / "data", {"train": 2}, 96)
    return tmp_path / "data"


def rewrite(data: Path, suffix: str) -> Path:
    """Store the first X-ray of `data` as another kind of file."""
    old = data / "train" / "images" / "phantom_00000.jpg"
    image = Image.open(old)
    image.load()
    old.unlink()
    path = old.with_suffix(suffix)
    if suffix == ".dcm":
        write_dicom(path, np.asarray(image))
    elif suffix == ".tif":
        Image.fromarray(np.asarray(image).astype(np.uint16) * 257).save(path)
    else:
        image.save(path)
    return path


def write_dicom(path: Path, pixels: np.ndarray) -> None:
    """Write an inverted radiograph of 12 bits, as many detectors do."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.1.1")
    meta.MediaStorageSOPInstanceUID = UID("1.2.3")
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, "1.2.3"
    dataset.Modality, dataset.PhotometricInterpretation = "DX", "MONOCHROME1"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.BitsAllocated, dataset.BitsStored = 1, 16, 12
    dataset.HighBit, dataset.PixelRepresentation = 11, 0
    dataset.PixelData = ((255 - pixels.astype(np.uint16)) * 16).tobytes()
    dataset.save_as(path, enforce_file_format=True)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".dcm", ".jpeg"])
def test_any_format_of_the_service_trains(data: Path, suffix: str) -> None:
    row = read_rows(data, "train")[0]
    wanted = load_xray(row).image.astype(int)
    path = rewrite(data, suffix)
    row = read_rows(data, "train")[0]
    assert row.image_path == path
    found = load_xray(row).image.astype(int)
    assert np.corrcoef(found.ravel(), wanted.ravel())[0, 1] > 0.99  # so it is not inverted either


def test_an_xray_is_turned_as_the_service_turns_it(data: Path) -> None:
    row = read_rows(data, "train")[0]
    upright = read_xray(row.image_path).pixels
    turned = Image.fromarray(upright[::-1, ::-1])
    turned.save(
        row.image_path,
        exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x03\0\0\0\0\0\0",
        quality=95,
    )
    found = read_xray(row.image_path).pixels
    assert np.abs(found.astype(int) - upright).mean() < 3


def test_two_files_of_one_name_are_refused(data: Path) -> None:
    image = data / "train" / "images" / "phantom_00000.jpg"
    Image.open(image).save(image.with_suffix(".png"))
    with pytest.raises(DataError, match="have one name; which one is meant"):
        read_rows(data, "train")


def test_a_file_that_is_missing_or_damaged_is_named(data: Path) -> None:
    row = read_rows(data, "train")[0]
    row.image_path.write_bytes(row.image_path.read_bytes()[:300])
    with pytest.raises(DataError, match=r"phantom_00000\.jpg"):
        load_xray(row)
    row.image_path.unlink()
    with pytest.raises(DataError, match=r"phantom_00000\.jpg cannot be read: No such file"):
        load_xray(read_rows(data, "train")[0])


def drawn() -> np.ndarray:
    mask = np.zeros((40, 50), np.uint8)
    mask[5:30, 8:20] = mask[5:30, 28:42] = 255
    return mask


@pytest.mark.parametrize("kind", ["1", "L", "0 and 1", "I;16", "RGB", "RGBA opaque"])
def test_masks_of_all_plain_kinds_are_one_mask(tmp_path: Path, kind: str) -> None:
    mask, path = drawn(), tmp_path / "mask.png"
    image = Image.fromarray(mask)
    if kind == "0 and 1":
        image = Image.fromarray(mask // 255)
    elif kind == "I;16":
        image = Image.fromarray(mask.astype(np.uint16) * 257)
    elif kind == "RGBA opaque":
        image = image.convert("RGBA")
    elif kind in ("1", "RGB"):
        image = image.convert(kind)
    image.save(path)
    assert np.array_equal(read_mask_pixels(path), mask > 0)


def test_masks_that_cannot_be_proved_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    white = np.full((40, 50, 3), 255, np.uint8)
    Image.fromarray(np.dstack([white, drawn()])).save(path)
    with pytest.raises(DataError, match=r"mask\.png: The mask is held in its transparency"):
        read_mask_pixels(path)
    coloured = np.dstack([drawn(), drawn() // 2, drawn() * 0])
    Image.fromarray(coloured).save(path)
    with pytest.raises(DataError, match="coloured; store it as grey"):
        read_mask_pixels(path)
    soft = Image.fromarray(drawn()).resize((25, 20), Image.Resampling.BILINEAR).resize((50, 40))
    soft.save(path)
    with pytest.raises(DataError, match=r"levels of grey; .* --mask-threshold for a soft one"):
        read_mask_pixels(path)
    Image.fromarray(np.full((40, 50), 255, np.uint8)).save(path)
    with pytest.raises(DataError, match="one level only"):
        read_mask_pixels(path)
    path.write_bytes(b"none")
    with pytest.raises(DataError, match=r"mask\.png: The mask cannot be decoded"):
        read_mask_pixels(path)


def test_a_turned_dicom_xray_trains_upright_with_the_mask_annotated_on_it(data: Path) -> None:
    row = read_rows(data, "train")[0]
    before = load_xray(row)
    image, mask = np.asarray(Image.open(row.image_path)), Image.open(row.mask_path)
    row.image_path.unlink()
    dicom = row.image_path.with_suffix(".dcm")
    write_dicom(dicom, np.rot90(image))
    header = dcmread(dicom)
    header.PatientOrientation = ["F", "R"]  # a quarter turn against the clock
    header.save_as(dicom)
    Image.fromarray(np.rot90(np.asarray(mask))).save(row.mask_path)
    found = load_xray(read_rows(data, "train")[0])
    assert np.array_equal(found.lungs, before.lungs)
    assert np.corrcoef(found.image.ravel(), before.image.ravel())[0, 1] > 0.99
