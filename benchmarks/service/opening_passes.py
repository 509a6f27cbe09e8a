"""Milliseconds of each pass over an X-ray's pixels, from the file to the network's input.

`python -m benchmarks.service.opening_passes [--rounds 25]` opens a PNG of 1024 x 1024 pixels with 8
bits and an uncompressed DICOM file of 2048 x 2048 with 16, on one core. Alternative implementations
of counting, windowing and resizing run alternately with the service's own. Printed are the medians
of the thread's processor time. The exit code is 1 if two implementations differ in any byte.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.processor import processor_name
from benchmarks.service.dicom_reading import windowed_xray
from benchmarks.service.segment_latency import DEFAULT_IMAGE, png_of_size
from model_store.artifact import read_manifest
from model_store.geometry import InputGeometry, window_to_uint8, windowed_mean
from model_store.grey_levels import grey_histogram, replace_levels
from model_store.model_index import default_model_folder
from model_store.opencv import cv2
from model_store.pictures.picture_reading import read_picture
from service.imaging.mask_checks import check_image
from service.imaging.rendering import window_for_display

MOST_PIXELS = 1 << 24
Pass = Callable[[], Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return 1 if two implementations give different pixels."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.service.opening_passes")
    parser.add_argument("--rounds", type=int, default=25)
    options = parser.parse_args(arguments)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    input_size = int(read_manifest(default_model_folder()).architecture["input_size"])
    files = {
        "PNG, 1024 x 1024, 8 bits": png_of_size(DEFAULT_IMAGE, 1024),
        "DICOM, 2048 x 2048, 16 bits": windowed_xray(),
    }
    print(f"on one core of {processor_name()}, medians of {options.rounds}, ms of processor time")
    found: dict[str, Mapping[str, float]] = {}
    are_equal = True
    for name, file in files.items():
        pixels = read_picture(file, max_pixels=MOST_PIXELS).pixels
        are_equal &= _agree(pixels, input_size)
        found[name] = _medians_ms(_passes(file, pixels, input_size), options.rounds)
        print(f"\n{name}")
        for one, milliseconds in found[name].items():
            print(f"    {one:44s}{milliseconds:8.2f}")
    print(json.dumps(found))
    return 0 if are_equal else 1


def _passes(file: bytes, pixels: NDArray[Any], input_size: int) -> Mapping[str, Pass]:
    counts = grey_histogram(pixels)
    windowed = window_to_uint8(pixels, counts)
    geometry = InputGeometry(pixels.shape[1], pixels.shape[0], input_size)
    table = np.arange(counts.size).astype(np.uint8)
    return {
        "decode": lambda: read_picture(file, max_pixels=MOST_PIXELS),
        "count grey values": lambda: grey_histogram(pixels),
        "count grey values, by NumPy": lambda: _counted_by_numpy(pixels),
        "count grey values, by OpenCV": lambda: _counted_by_opencv(pixels),
        "judge and average the counts": lambda: (check_image(counts), windowed_mean(counts)),
        "window": lambda: window_to_uint8(pixels, counts),
        "window, its lookup alone": lambda: replace_levels(pixels, table),
        "window, its lookup alone, by NumPy": lambda: _replaced_by_numpy(pixels, table),
        "window, its lookup alone, by OpenCV": lambda: cv2.LUT(pixels, table),
        "resize and pad": lambda: geometry.image_to_input(windowed),
        "resize, four rows as four channels": lambda: _resized_by_four(windowed, geometry),
        "window for the overlay": lambda: window_for_display(pixels),
    }


def _agree(pixels: NDArray[Any], input_size: int) -> bool:
    """Return whether all implementations of a pass give the same result."""
    geometry = InputGeometry(pixels.shape[1], pixels.shape[0], input_size)
    windowed = window_to_uint8(pixels)
    resized = geometry.image_to_input(windowed)[: geometry.resized_height, : geometry.resized_width]
    counts = grey_histogram(pixels)
    table = (np.arange(counts.size) * 7).astype(np.uint8)
    replaced = replace_levels(pixels, table)
    return bool(
        np.array_equal(counts, _counted_by_numpy(pixels))
        and np.array_equal(counts, _counted_by_opencv(pixels))
        and np.array_equal(replaced, _replaced_by_numpy(pixels, table))
        and np.array_equal(replaced, cv2.LUT(pixels, table))
        and np.array_equal(resized, _resized_by_four(windowed, geometry))
    )


def _counted_by_numpy(pixels: NDArray[Any]) -> NDArray[np.int64]:
    return np.bincount(pixels.ravel(), minlength=256 ** int(pixels.itemsize))


def _counted_by_opencv(pixels: NDArray[Any]) -> NDArray[Any]:
    levels = 256 ** int(pixels.itemsize)
    return cv2.calcHist([pixels], [0], None, [levels], [0, levels]).ravel()


def _resized_by_four(windowed: NDArray[np.uint8], geometry: InputGeometry) -> NDArray[np.uint8]:
    """Let Pillow scale the width of four rows at a time, as independent channels."""
    size, quarter = (geometry.resized_width, geometry.resized_height), windowed.shape[0] // 4
    rows = cv2.merge([windowed[first::4] for first in range(4)])
    wide = Image.frombuffer("CMYK", (windowed.shape[1], quarter), rows, "raw", "CMYK", 0, 1)
    narrow = np.asarray(wide.resize((size[0], quarter), Image.Resampling.BILINEAR))
    apart = np.ascontiguousarray(narrow.transpose(0, 2, 1)).reshape(windowed.shape[0], size[0])
    return np.asarray(Image.fromarray(apart).resize(size, Image.Resampling.BILINEAR))


def _replaced_by_numpy(pixels: NDArray[Any], table: NDArray[np.uint8]) -> NDArray[np.uint8]:
    replaced: NDArray[np.uint8] = np.take(table, pixels, mode="clip")
    return replaced


def _medians_ms(passes: Mapping[str, Pass], rounds: int) -> Mapping[str, float]:
    """Run all passes alternately, so that other load on the machine affects all alike."""
    times: dict[str, list[float]] = {name: [] for name in passes}
    for _ in range(rounds + 2):
        for name, one in passes.items():
            began = time.thread_time()
            one()
            times[name].append(time.thread_time() - began)
    return {name: round(1000 * statistics.median(each[2:]), 2) for name, each in times.items()}


if __name__ == "__main__":
    sys.exit(main())
