"""Damage done to a file, each time the same for the same seed and number."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable, Sequence

MOST_BYTES = 256 << 10
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_EDGES_16 = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF)
_EDGES_32 = (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF, 0x10000, 0x00FFFFFF)


def mutated(files: Sequence[bytes], seed: int, number: int) -> tuple[int, bytes]:
    """Return a damaged file.

    Args:
        files: honest ones.
        seed: of the whole run.
        number: of the mutant.

    Returns:
        Index of the file it was made from, and its bytes.
    """
    rng = random.Random(f"{seed}:{number}")
    index = number % len(files)
    data = bytearray(files[index])
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        other = files[rng.randrange(len(files))]
        rng.choice(_MUTATIONS)(data, rng, other)
        del data[MOST_BYTES:]
    if data.startswith(_PNG_SIGNATURE) and rng.random() < 0.8:
        _repair_png(data)  # else nothing but the checksum would ever be tried
    return index, bytes(data)


def _flip_bit(data: bytearray, rng: random.Random, other: bytes) -> None:
    if data:
        data[_position(data, rng)] ^= 1 << rng.randrange(8)


def _set_byte(data: bytearray, rng: random.Random, other: bytes) -> None:
    if data:
        data[_position(data, rng)] = rng.choice((0, 1, 0x7F, 0x80, 0xFE, 0xFF, rng.randrange(256)))


def _set_number(data: bytearray, rng: random.Random, other: bytes) -> None:
    """Write an extreme number where a length, a size or an offset may stand."""
    order = rng.choice("<>")
    code, edges = rng.choice((("H", _EDGES_16), ("I", _EDGES_32)))
    size = struct.calcsize(code)
    if len(data) >= size:
        at = min(_position(data, rng), len(data) - size)
        struct.pack_into(order + code, data, at, rng.choice(edges))


def _add_to_number(data: bytearray, rng: random.Random, other: bytes) -> None:
    if len(data) >= 2:
        at, order = min(_position(data, rng), len(data) - 2), rng.choice("<>")
        (value,) = struct.unpack_from(order + "H", data, at)
        struct.pack_into(order + "H", data, at, (value + rng.randint(-16, 16)) % 65536)


def _cut(data: bytearray, rng: random.Random, other: bytes) -> None:
    if data:
        del data[_position(data, rng) :]


def _delete(data: bytearray, rng: random.Random, other: bytes) -> None:
    if data:
        at = _position(data, rng)
        del data[at : at + rng.choice((1, 2, 4, 16, 256))]


def _repeat(data: bytearray, rng: random.Random, other: bytes) -> None:
    """Insert a piece again, many times: scans, chunks, items."""
    if data:
        at = _position(data, rng)
        piece = bytes(data[at : at + rng.choice((1, 8, 64, 512))])
        data[at:at] = piece * rng.choice((1, 2, 16, 200))


def _splice(data: bytearray, rng: random.Random, other: bytes) -> None:
    """Put a piece of another file in."""
    if data and other:
        start, at = rng.randrange(len(other)), _position(data, rng)
        data[at:at] = other[start : start + rng.choice((4, 32, 256, 4096))]


def _fill(data: bytearray, rng: random.Random, other: bytes) -> None:
    if data:
        at = _position(data, rng)
        size = min(rng.choice((4, 32, 256)), len(data) - at)
        data[at : at + size] = bytes([rng.choice((0, 0xFF))]) * size


_MUTATIONS: tuple[Callable[[bytearray, random.Random, bytes], None], ...] = (
    _flip_bit, _flip_bit, _set_byte, _set_byte, _set_number, _set_number, _add_to_number, _cut,
    _delete, _repeat, _splice, _fill,
)  # fmt: skip


def _position(data: bytearray, rng: random.Random) -> int:
    """Choose a place; mostly in the first part, where headers are."""
    if rng.random() < 0.6:
        return rng.randrange(min(len(data), 1024))
    return rng.randrange(len(data))


def _repair_png(data: bytearray) -> None:
    """Write the right checksum behind every chunk whose length is possible."""
    at = len(_PNG_SIGNATURE)
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        end = at + 8 + length
        if end + 4 > len(data):
            return
        struct.pack_into(">I", data, end, zlib.crc32(bytes(data[at + 4 : end])))
        at = end + 4
