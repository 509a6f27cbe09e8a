"""Uploads that ask for much work or memory, each with the answers that are right.

`python -m tests.service.costly_files FOLDER` writes them out. They are valid as far as each parser
looks, so that what stops them, if anything has to, is a limit and not damage.
"""

from __future__ import annotations

import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom.uid as uids
from numpy.typing import NDArray
from PIL import Image
from pydicom.encaps import encapsulate

from tests.dicom_files import as_file, make_xray
from tests.raster_files import encoded
from tests.service.hostile_files import HostileFile

SIDE = 6320  # 39.9 megapixels: just below the limit
MOST_BOXES = 32
REFUSED = frozenset({"undecodable_image", "unsupported_media_type", "too_many_pixels"})
COSTLY = frozenset({"image_too_costly"})
READ: frozenset[str] = frozenset()
"""Answered with a mask, as an honest file of that size would be."""


def costly_files() -> dict[str, Callable[[], HostileFile]]:
    """Return how to make each file, by name."""
    makers: dict[str, Callable[[], tuple[bytes, frozenset[str]]]] = {
        "scans.jpg": lambda: (_many_scans(1500), REFUSED),
        "scans_in_dicom.dcm": lambda: (_jpeg_in_dicom(_many_scans(1500), 1024), REFUSED),
        "scans_below_the_limit.jpg": lambda: (_many_scans(80, 3000), COSTLY),
        "items.dcm": lambda: (_items(2_000_000), READ),
        "nested.dcm": lambda: (_nested(200_000), REFUSED),
        "elements.dcm": lambda: (_elements(500_000), REFUSED),
        "deflated.dcm": lambda: (_deflated(), REFUSED),
        "rationals.tif": lambda: (_rationals(7_800_000), READ),
        "strips.tif": lambda: (_strips(), READ),
        "exif.jpg": lambda: (_long_exif(), READ),
        "pixels.png": lambda: (_flat_png(), READ),
        "noise.jpg": lambda: (_noise_jpeg(), READ),
        "jpeg_2000.dcm": lambda: (_jpeg_2000(), READ),
        "jpeg_ls.dcm": lambda: (_jpeg_ls(), READ),
        "lzw.tif": lambda: (_flat_tiff("tiff_lzw"), READ),
    }

    def maker(name: str) -> Callable[[], HostileFile]:
        def make() -> HostileFile:
            data, codes = makers[name]()
            return HostileFile(name, data, codes)

        return make

    return {name: maker(name) for name in makers}


def _noise(side: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (side, side), dtype=np.uint8)


def _many_scans(count: int, side: int = 1024) -> bytes:
    """Repeat the last scan of a progressive JPEG, which refines what is there."""
    data = encoded(Image.fromarray(np.full((side, side), 90, np.uint8)), "JPEG", progressive=True)
    start = data.rindex(b"\xff\xda")
    scan = data[start:-2]
    return data[:start] + scan * count + data[-2:]


def _jpeg_in_dicom(jpeg: bytes, side: int) -> bytes:
    xray = make_xray(np.zeros((side, side), np.uint8), bits_stored=8)
    return _encapsulated(xray, uids.JPEGBaseline8Bit, jpeg)


def _encapsulated(xray: object, syntax: uids.UID, frame: bytes) -> bytes:
    xray.file_meta.TransferSyntaxUID = syntax  # type: ignore[attr-defined]
    xray.PixelData = encapsulate([frame])  # type: ignore[attr-defined]
    xray["PixelData"].VR = "OB"  # type: ignore[index]
    return as_file(xray)  # type: ignore[arg-type]


def _before_pixels(insert: bytes) -> bytes:
    """Put elements of a private group before the pixels of an X-ray."""
    data = as_file(make_xray())
    at = data.index(b"\xe0\x7f\x10\x00OW")
    return data[:at] + insert + data[at:]


_PRIVATE = struct.pack("<HH", 0x6FFF, 0x0010)


def _items(count: int) -> bytes:
    items = struct.pack("<HHI", 0xFFFE, 0xE000, 0) * count
    return _before_pixels(_PRIVATE + b"SQ\0\0" + struct.pack("<I", len(items)) + items)


def _nested(depth: int) -> bytes:
    opening = _PRIVATE + b"SQ\0\0\xff\xff\xff\xff" + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    closing = struct.pack("<HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    return _before_pixels(opening * depth + closing * depth)


def _elements(count: int) -> bytes:
    groups = range(0x6001, 0x6001 + 2 * (count // 4096 + 1), 2)
    numbers = ((group, number) for group in groups for number in range(0x1000, 0x2000))
    return _before_pixels(
        b"".join(
            struct.pack("<HH2sH2s", group, number, b"LO", 2, b"A ")
            for (group, number), _ in zip(numbers, range(count), strict=False)
        )
    )


def _deflated() -> bytes:
    """A data set of a kilobyte that inflates to a gigabyte."""
    xray = make_xray(np.zeros((64, 64), np.uint16))
    xray.file_meta.TransferSyntaxUID = uids.DeflatedExplicitVRLittleEndian
    data = as_file(xray)
    at = data.index(b"\x02\x00\x10\x00UI")
    (length,) = struct.unpack_from("<H", data, at + 6)
    (group_bytes,) = struct.unpack_from("<I", data, 140)
    head = data[: 144 + group_bytes]
    assert at + 8 + length <= len(head)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    text = _PRIVATE + b"UT\0\0" + struct.pack("<I", 1 << 30)
    start = packer.compress(text) + packer.flush(zlib.Z_FULL_FLUSH)
    mebibyte = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return head + start + mebibyte * 1024 + packer.flush()


def _rationals(count: int) -> bytes:
    """A TIFF with one unknown tag that has more values than the image has pixels."""
    data = bytearray(encoded(Image.fromarray(_noise(64)), "TIFF"))
    (directory,) = struct.unpack_from("<I", data, 4)
    (entries,) = struct.unpack_from("<H", data, directory)
    table = data[directory + 2 : directory + 2 + 12 * entries]
    values_at = len(data)
    values = struct.pack("<II", 1, 3) * count
    table += struct.pack("<HHII", 65_000, 5, count, values_at)
    data += values
    struct.pack_into("<I", data, 4, len(data))
    data += struct.pack("<H", entries + 1) + table + bytes(4)
    return bytes(data)


def _strips() -> bytes:
    """A TIFF whose rows are a strip each, all of them the same bytes of the file."""
    rows, row = 6000, zlib.compress(bytes(6000), 9)
    offsets_at, sizes_at = 8 + len(row), 8 + len(row) + 4 * rows
    directory_at = sizes_at + 4 * rows
    tags = (
        (256, 1, 6000), (257, 1, rows), (258, 1, 8), (259, 1, 8), (262, 1, 1),
        (273, rows, offsets_at), (277, 1, 1), (278, 1, 1), (279, rows, sizes_at),
    )  # fmt: skip
    directory = struct.pack("<H", len(tags))
    directory += b"".join(struct.pack("<HHII", tag, 4, n, value) for tag, n, value in tags)
    return (
        b"II*\0" + struct.pack("<I", directory_at) + row
        + struct.pack("<I", 8) * rows + struct.pack("<I", len(row)) * rows
        + directory + bytes(4)
    )  # fmt: skip


def _flat_png() -> bytes:
    return encoded(Image.fromarray(np.zeros((SIDE, SIDE), np.uint8)), "PNG")


def _flat_tiff(compression: str) -> bytes:
    flat = Image.fromarray(np.zeros((SIDE, SIDE), np.uint16))
    return encoded(flat, "TIFF", compression=compression)


def _noise_jpeg() -> bytes:
    """Seven megabytes whose overlay has a hundred and more."""
    return encoded(Image.fromarray(_noise(SIDE)), "JPEG", quality=8)


def _jpeg_2000() -> bytes:
    """Grain of one bit: without any, long runs of zeros in the codes look like damage."""
    grain = _noise(SIDE).astype(np.uint16) & 1
    frame = imagecodecs.jpeg2k_encode(grain, codecformat="j2k", reversible=True)
    return _encapsulated(make_xray(grain), uids.JPEG2000Lossless, bytes(frame))


def _jpeg_ls() -> bytes:
    grain = _noise(SIDE).astype(np.uint16) & 1
    return _encapsulated(
        make_xray(grain), uids.JPEGLSLossless, bytes(imagecodecs.jpegls_encode(grain))
    )


def _long_exif() -> bytes:
    """A JPEG with as many application segments as fit into ten megabytes."""
    data = encoded(Image.fromarray(_noise(64)), "JPEG")
    segment = b"\xff\xe1\xff\xffExif\0\0" + bytes(65_533 - 6)
    return data[:2] + segment * 150 + data[2:]


def main(write: Callable[[str], None] = print) -> int:
    """Write the files into the folder that the command line names."""
    if len(sys.argv) != 2:
        write("usage: python -m tests.service.costly_files FOLDER")
        return 2
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in costly_files().items():
        data = make().data
        (folder / name).write_bytes(data)
        write(f"{name}: {len(data)} bytes")
    boxes = "\n".join([f"0,0,{SIDE},{SIDE}"] * MOST_BOXES)
    (folder / "pixels.png.boxes").write_text(boxes, encoding="ascii")
    return 0


if __name__ == "__main__":
    sys.exit(main())
