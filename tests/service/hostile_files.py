"""Files that a hostile or careless sender might post, each with the answers that are right.

`python -m tests.service.hostile_files FOLDER [PATTERN]` writes them out, or those whose names match
(`'bomb-*'`), to be tried on any service.
"""

from __future__ import annotations

import gzip
import io
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.dicom_files import as_file, make_xray

UNDECODABLE = frozenset({"undecodable_image"})
OTHER_KIND = frozenset({"unsupported_media_type"})
TOO_MANY = frozenset({"too_many_pixels"})


@dataclass(frozen=True)
class HostileFile:
    """One file of the corpus.

    Attributes:
        name: What it is, also its file name.
        data: Its bytes.
        codes: Problem codes that may answer it; empty for a strange but honest X-ray, which is
            answered with a mask.
    """

    name: str
    data: bytes
    codes: frozenset[str]


def corpus() -> list[HostileFile]:
    """Make every file; the same bytes each time, but for the identifiers of DICOM files."""
    return [*_bombs(), *_truncations(), *_lies(), *_polyglots(), *_other_kinds(), *_strange()]


def _grey(side: int = 96) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (side, side), dtype=np.uint8)
    return Image.fromarray(pixels)


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _png(width: int, height: int, idat: bytes, *extra: bytes, depth: int = 8) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    parts = [_chunk(b"IHDR", header), *extra, _chunk(b"IDAT", idat), _chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _bombs() -> list[HostileFile]:
    zeros = zlib.compress(bytes(64 << 20), 9)
    tiff_header = _tiff(60_000, 60_000, strip_bytes=64)
    inflating_text = _chunk(b"zTXt", b"Comment\0\0" + zeros)
    inflating_profile = _chunk(b"iCCP", b"profile\0\0" + zeros)
    small = zlib.compress(bytes(97 * 96))
    jpeg = bytearray(_saved(_grey(), "JPEG"))
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = struct.pack(">HH", 65_500, 65_500)
    huge_dicom = make_xray()
    huge_dicom.Rows = huge_dicom.Columns = 65_000
    frames = make_xray(NumberOfFrames=100_000)
    return [
        HostileFile("bomb-pixels.png", _png(100_000, 100_000, zeros), TOO_MANY),
        HostileFile("bomb-one-row.png", _png(2**31 - 1, 1, zeros), TOO_MANY | {"invalid_field"}),
        HostileFile("bomb-more-data-than-pixels.png", _png(96, 96, zeros), frozenset()),
        HostileFile("bomb-text.png", _png(96, 96, small, inflating_text), frozenset()),
        HostileFile("bomb-profile.png", _png(96, 96, small, inflating_profile), frozenset()),
        HostileFile("bomb-pixels.jpg", bytes(jpeg), TOO_MANY),
        HostileFile("bomb-pixels.tif", tiff_header, TOO_MANY),
        HostileFile("bomb-pixels.dcm", as_file(huge_dicom), TOO_MANY | UNDECODABLE),
        HostileFile("bomb-frames.dcm", as_file(frames), UNDECODABLE | OTHER_KIND | TOO_MANY),
    ]


def _tiff(width: int, height: int, strip_bytes: int, offset: int = 8) -> bytes:
    """Make a little-endian grey TIFF of one strip whose header may lie."""
    entries = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1),
        (273, 4, 1, offset), (277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, strip_bytes),
    ]  # fmt: skip
    directory = struct.pack("<H", len(entries))
    directory += b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + 64) + bytes(64) + directory


def _truncations() -> list[HostileFile]:
    whole = {
        "png": _saved(_grey(), "PNG"),
        "jpg": _saved(_grey(), "JPEG"),
        "tif": _saved(_grey(), "TIFF"),
        "dcm": as_file(make_xray()),
    }
    files = [
        HostileFile("empty.png", b"", UNDECODABLE),
        HostileFile("zeros.png", bytes(4096), UNDECODABLE),
    ]
    for kind, data in whole.items():
        for percent in (2, 30, 60, 95):
            cut = data[: len(data) * percent // 100]
            # A DICOM file cut before it says what it shows may be of any kind.
            codes = UNDECODABLE | OTHER_KIND if (kind, percent) == ("dcm", 2) else UNDECODABLE
            files.append(HostileFile(f"cut-at-{percent}.{kind}", cut, codes))
    return files


def _lies() -> list[HostileFile]:
    png = bytearray(_saved(_grey(), "PNG"))
    long_chunk = bytearray(png)
    long_chunk[8:12] = struct.pack(">I", 0x7FFF_FFFF)
    wrong_crc = bytearray(png)
    wrong_crc[-20] ^= 0xFF
    jpeg = bytearray(_saved(_grey(), "JPEG"))
    jpeg[4:6] = b"\xff\xff"
    short = make_xray()
    short.PixelData = bytes(short.PixelData)[:100]
    dicom = bytearray(as_file(make_xray()))
    at = dicom.index(b"\xe0\x7f\x10\x00OW") + 8
    dicom[at : at + 4] = struct.pack("<I", 0xFFFF_FFF0)
    return [
        HostileFile("chunk-length.png", bytes(long_chunk), UNDECODABLE),
        HostileFile("wrong-checksum.png", bytes(wrong_crc), UNDECODABLE),
        HostileFile("strip.png", _png(32, 1_000_000, b""), frozenset({"invalid_field"})),
        HostileFile("segment-length.jpg", bytes(jpeg), UNDECODABLE),
        HostileFile("strip-past-the-end.tif", _tiff(96, 96, 9216, offset=10**9), UNDECODABLE),
        HostileFile("strip-too-long.tif", _tiff(96, 96, 2**31), UNDECODABLE),
        HostileFile("too-few-pixels.dcm", as_file(short), UNDECODABLE),
        HostileFile("pixel-length.dcm", bytes(dicom), UNDECODABLE),
    ]


def _polyglots() -> list[HostileFile]:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("payload.txt", "x" * 1000)
    png = _saved(_grey(), "PNG")
    page = b"<html><script>alert(1)</script></html>"
    named_jpeg = b"\xff\xd8\xff\xe0" + png
    return [
        HostileFile("archive-behind.png", png + archive.getvalue(), frozenset()),
        HostileFile("page-in-comment.png", _with_text(png, page), frozenset()),
        HostileFile("png-called.jpg", named_jpeg, UNDECODABLE),
        HostileFile("page.html", page, UNDECODABLE),
        HostileFile("picture.svg", b'<svg xmlns="http://www.w3.org/2000/svg"/>', OTHER_KIND),
    ]


def _with_text(png: bytes, text: bytes) -> bytes:
    return png[:33] + _chunk(b"tEXt", b"Comment\0" + text) + png[33:]


def _other_kinds() -> list[HostileFile]:
    image = _grey()
    frames = [_grey(), _grey().transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    animated: dict[str, Any] = {"save_all": True, "append_images": frames[1:]}
    return [
        HostileFile("still.gif", _saved(image, "GIF"), OTHER_KIND),
        HostileFile("animated.gif", _saved(frames[0], "GIF", **animated), OTHER_KIND),
        HostileFile("animated.png", _saved(frames[0], "PNG", **animated), OTHER_KIND),
        HostileFile("pages.tif", _saved(frames[0], "TIFF", **animated), OTHER_KIND),
        HostileFile("picture.bmp", _saved(image, "BMP"), OTHER_KIND),
        HostileFile("picture.webp", _saved(image, "WEBP"), OTHER_KIND),
        HostileFile("packed.png.gz", gzip.compress(_saved(image, "PNG"), mtime=0), OTHER_KIND),
        HostileFile("document.pdf", b"%PDF-1.7\n" + bytes(100), OTHER_KIND),
        HostileFile("speck.png", _saved(_grey(8), "PNG"), frozenset({"invalid_field"})),
    ]


def _strange() -> list[HostileFile]:
    """Make X-rays in forms that real archives produce: they are read, exactly or not at all."""
    image = _grey()
    exif = Image.Exif()
    exif[0x010E] = "x" * 60_000
    palette = image.convert("P")
    deep = np.random.default_rng(1).integers(0, 65536, (96, 96), dtype=np.uint16)
    return [
        HostileFile("cmyk.jpg", _saved(image.convert("CMYK"), "JPEG"), frozenset()),
        HostileFile("palette-alpha.png", _saved(palette, "PNG", transparency=3), frozenset()),
        HostileFile("huge-exif.jpg", _saved(image, "JPEG", exif=exif), frozenset()),
        HostileFile("deep.png", _saved(Image.fromarray(deep), "PNG"), frozenset()),
    ]


def main(write: Callable[[str], None] = print) -> int:
    """Write the corpus into the folder that the command line names."""
    if len(sys.argv) not in (2, 3):
        write("usage: python -m tests.service.hostile_files FOLDER [PATTERN]")
        return 2
    folder, pattern = Path(sys.argv[1]), "".join(sys.argv[2:]) or "*"
    folder.mkdir(parents=True, exist_ok=True)
    chosen = [file for file in corpus() if fnmatch(file.name, pattern)]
    for file in chosen:
        (folder / file.name).write_bytes(file.data)
    write(f"{len(chosen)} files in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
