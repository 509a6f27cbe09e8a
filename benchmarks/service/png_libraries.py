"""PNG files by several libraries: `python -m benchmarks.service.png_libraries [--image X.png]`.

Writes the overlay of an X-ray of 1024 x 1024 and reads the X-ray, alternately with the service's
code and with other libraries. Printed are the median processor time on one thread, the size of the
file, and whether the pixels equal the service's. Only a library with equal pixels could replace the
service's code. The exit code is 1 if a library reads other pixels from the service's files.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import sys
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import imagecodecs
import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray
from PIL import Image

from benchmarks.processor import processor_name
from benchmarks.service.segment_latency import DEFAULT_IMAGE, png_of_size
from model_store.boxes import Box
from model_store.pictures.picture_reading import read_picture
from model_store.pictures.png_chunks import PNG_SIGNATURE, PngHeader, png_chunk
from service.imaging.png_encoding import encode_png, rgb_of
from service.imaging.rendering import overlay_colours

SIDE_PX = 1024
ROUNDS = 15
OWN = "service (ISA-L, filter up)"
RGB = NDArray[np.uint8]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return 1 if a library reads other pixels from the service's files."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.service.png_libraries")
    parser.add_argument("--image", type=Path, default=DEFAULT_IMAGE)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args(arguments)
    cv2.setNumThreads(1)
    file = png_of_size(options.image, SIDE_PX)
    grey = read_picture(file, max_pixels=SIDE_PX**2).pixels
    colours = _overlay_of(grey)
    print(processor_name())
    written, files = _written(colours, options.rounds)
    _print("writing an overlay", written)
    read = _read(file, grey, options.rounds)
    _print("reading an X-ray", read)
    print(json.dumps({"writing": written, "reading": read}))
    own = files[OWN]
    agree = all(np.array_equal(decode(own), rgb_of(colours)) for decode in _rgb_readers())
    return 0 if agree else 1


def _overlay_of(grey: NDArray[Any]) -> NDArray[np.uint32]:
    """Return an X-ray with two tinted ellipses, like the lungs of an overlay."""
    rows, columns = np.mgrid[0:SIDE_PX, 0:SIDE_PX] / SIDE_PX
    mask = np.zeros((SIDE_PX, SIDE_PX), bool)
    for middle in (0.3, 0.7):
        mask |= ((rows - 0.5) / 0.35) ** 2 + ((columns - middle) / 0.15) ** 2 < 1
    box: Box = (0.0, 0.0, float(SIDE_PX), float(SIDE_PX))
    return overlay_colours(grey, [mask], [box])


def _writers(colours: NDArray[np.uint32]) -> Mapping[str, Callable[[], bytes]]:
    def pillow() -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(rgb_of(colours)).save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()

    def opencv() -> bytes:
        quality = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, 3]
        return bytes(cv2.imencode(".png", rgb_of(colours)[:, :, ::-1], quality)[1].tobytes())

    def deflated_by(deflate: Callable[[bytes], bytes]) -> Callable[[], bytes]:
        """Return the service's PNG with its rows deflated by another library."""
        return lambda: _framed(deflate(_filtered(rgb_of(colours))))

    return {
        OWN: lambda: encode_png(colours),
        "the same rows, ISA-L level 0": deflated_by(lambda rows: isal_zlib.compress(rows, 0)),
        "the same rows, zlib level 1": deflated_by(lambda rows: zlib.compress(rows, 1)),
        "the same rows, zlib-ng level 1": deflated_by(
            lambda rows: bytes(imagecodecs.zlibng_encode(rows, level=1))
        ),
        "the same rows, libdeflate level 1": deflated_by(
            lambda rows: bytes(imagecodecs.deflate_encode(rows, level=1, raw=False))
        ),
        "Pillow level 1": pillow,
        "OpenCV level 1, run lengths": opencv,
        "libspng level 1": lambda: bytes(imagecodecs.spng_encode(rgb_of(colours), level=1)),
        "libpng level 1": lambda: bytes(imagecodecs.png_encode(rgb_of(colours), level=1)),
    }


def _readers() -> Mapping[str, Callable[[bytes], NDArray[Any]]]:
    return {
        "service (ISA-L, then Pillow)": lambda file: (
            read_picture(file, max_pixels=SIDE_PX**2).pixels
        ),
        "Pillow": lambda file: np.asarray(Image.open(io.BytesIO(file))),
        "OpenCV": lambda file: np.asarray(
            cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_UNCHANGED)
        ),
        "libspng": lambda file: np.asarray(imagecodecs.spng_decode(file)),
        "libpng": lambda file: np.asarray(imagecodecs.png_decode(file)),
    }


def _rgb_readers() -> list[Callable[[bytes], RGB]]:
    return [
        lambda file: np.asarray(Image.open(io.BytesIO(file))),
        lambda file: np.asarray(imagecodecs.spng_decode(file)),
        lambda file: np.asarray(imagecodecs.png_decode(file)),
    ]


def _written(
    colours: NDArray[np.uint32], rounds: int
) -> tuple[dict[str, dict[str, Any]], dict[str, bytes]]:
    writers, rgb = _writers(colours), rgb_of(colours)
    files = {name: write() for name, write in writers.items()}
    spent = _timed(writers, rounds)
    return {
        name: {
            "ms": spent[name],
            "kb": round(len(file) / 1000),
            "same": bool(np.array_equal(np.asarray(Image.open(io.BytesIO(file))), rgb)),
        }
        for name, file in files.items()
    }, files


def _read(file: bytes, grey: NDArray[Any], rounds: int) -> dict[str, dict[str, Any]]:
    readers = _readers()
    spent = _timed({name: _bound(read, file) for name, read in readers.items()}, rounds)
    return {
        name: {
            "ms": spent[name],
            "kb": round(len(file) / 1000),
            "same": bool(np.array_equal(read(file), grey)),
        }
        for name, read in readers.items()
    }


def _bound(read: Callable[[bytes], Any], file: bytes) -> Callable[[], Any]:
    return lambda: read(file)


def _timed(works: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Return the median processor milliseconds of each function, called alternately."""
    spent: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            began_s = time.process_time()
            work()
            spent[name].append(1000 * (time.process_time() - began_s))
    return {name: round(statistics.median(times), 2) for name, times in spent.items()}


def _filtered(rgb: RGB) -> bytes:
    rows = rgb.reshape(len(rgb), -1)
    filtered = np.empty((len(rows), rows.shape[1] + 1), np.uint8)
    filtered[:, 0] = 2
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    return filtered.tobytes()


def _framed(deflated: bytes) -> bytes:
    header = PngHeader(SIDE_PX, SIDE_PX, 8, 2, 0, 0, 0).pack()
    chunks = ((b"IHDR", header), (b"IDAT", deflated), (b"IEND", b""))
    return PNG_SIGNATURE + b"".join(png_chunk(kind, data) for kind, data in chunks)


def _print(title: str, rows: Mapping[str, Mapping[str, Any]]) -> None:
    print(f"\n{title:<36}{'ms':>8}{'kB':>8}  pixels")
    for name, row in rows.items():
        print(f"{name:<36}{row['ms']:>8.2f}{row['kb']:>8}  {'same' if row['same'] else 'OTHER'}")


if __name__ == "__main__":
    sys.exit(main())
