"""Run-length coded DICOM frames: padding of any length, and segments that end early."""

from __future__ import annotations

import itertools
import struct

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.encaps import get_frame
from pydicom.uid import RLELossless

from model_store.pictures.dicom_run_lengths import decode_run_lengths
from model_store.pictures.picture_errors import UndecodablePictureError
from tests.dicom_files import make_xray

HEIGHT, WIDTH = 40, 41


def pixels_of(samples: int, itemsize: int) -> NDArray[np.unsignedinteger]:
    """Return noise with runs and much black at the end, (H, W) or (H, W, 3)."""
    shape = (HEIGHT, WIDTH, 3) if samples == 3 else (HEIGHT, WIDTH)
    noise = np.random.default_rng(0).integers(0, 256**itemsize, shape)
    noise[5:20] &= 0x70
    noise[-6:] = 0
    return noise.astype(f"u{itemsize}")


def segments_of(pixels: NDArray[np.unsignedinteger]) -> list[bytes]:
    dataset = make_xray(pixels, bits_stored=8 * pixels.dtype.itemsize)
    dataset.compress(RLELossless, generate_instance_uid=False)
    frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    count, *starts = struct.unpack_from("<16L", frame)
    bounds = [*starts[:count], len(frame)]
    return [frame[start:end] for start, end in itertools.pairwise(bounds)]


def frame_of(segments: list[bytes]) -> bytes:
    starts = [64 + sum(map(len, segments[:number])) for number in range(len(segments))]
    header = [len(segments), *starts, *[0] * (15 - len(segments))]
    return struct.pack("<16L", *header) + b"".join(segments)


def decoded(segments: list[bytes], samples: int, itemsize: int) -> NDArray[np.unsignedinteger]:
    return decode_run_lengths(frame_of(segments), HEIGHT * WIDTH, samples, itemsize)


@pytest.mark.parametrize("padding_bytes", [0, 1, 2, 3, 4, 7, 64, 2000])
@pytest.mark.parametrize(("samples", "itemsize"), [(1, 1), (1, 2), (3, 1)])
def test_zeros_after_a_segment_are_padding_however_many(
    samples: int, itemsize: int, padding_bytes: int
) -> None:
    pixels = pixels_of(samples, itemsize)
    padded = [segment + bytes(padding_bytes) for segment in segments_of(pixels)]
    found = decoded(padded, samples, itemsize)
    assert np.array_equal(found, np.moveaxis(pixels.reshape(-1, samples), 0, 1))


@pytest.mark.parametrize("more", [b"\x00\x07", b"\x03abcd", b"\xfe\x09", bytes(6) + b"\x00\x01"])
def test_codes_for_more_pixels_than_the_picture_has_are_damage(more: bytes) -> None:
    (segment,) = segments_of(pixels_of(1, 1))
    with pytest.raises(UndecodablePictureError, match="run-length data are damaged"):
        decoded([segment + more], 1, 1)


def test_a_segment_that_ends_early_is_damage_wherever_it_is_cut() -> None:
    (segment,) = segments_of(pixels_of(1, 1))
    codes = segment.rstrip(b"\0")
    for length in range(0, len(codes) - 1, 7):
        with pytest.raises(UndecodablePictureError, match="run-length data are damaged"):
            decoded([segment[:length]], 1, 1)


def test_a_segment_cut_between_two_codes_is_damage() -> None:
    """Its rest would be what lay in the memory before."""
    halves = [bytes([127]) + bytes(range(128))] * (HEIGHT * WIDTH // 128)
    with pytest.raises(UndecodablePictureError):
        decoded([b"".join(halves)], 1, 1)


@pytest.mark.parametrize("place", [0, 1])
def test_either_segment_of_16_bits_must_be_whole(place: int) -> None:
    segments = segments_of(pixels_of(1, 2))
    segments[place] = b"\x81\x05" * 3
    with pytest.raises(UndecodablePictureError):
        decoded(segments, 1, 2)


def test_the_number_of_segments_is_that_of_the_header() -> None:
    segments = segments_of(pixels_of(1, 2))
    for wrong in (segments[:1], [*segments, segments[0]]):
        with pytest.raises(UndecodablePictureError):
            decoded(wrong, 1, 2)


@pytest.mark.parametrize(
    "header",
    [
        b"", bytes(63), bytes(64), struct.pack("<16L", 1, *[0] * 15),
        struct.pack("<16L", 1, 9999, *[0] * 14), struct.pack("<16L", 2, 100, 64, *[0] * 13),
        struct.pack("<16L", 16, *[64] * 15), struct.pack("<16L", 1, 60, *[0] * 14),
    ],
)  # fmt: skip
def test_a_header_that_points_nowhere_is_damage(header: bytes) -> None:
    with pytest.raises(UndecodablePictureError):
        decode_run_lengths(header + bytes(200 if len(header) == 64 else 0), 20, 1, 1)
