"""Check that a JPEG 2000 codestream is complete, as far as it shows.

A codestream has no checksum, and OpenJPEG decodes what it finds. Four signs show missing data:

* each tile-part states its length, so the next one, or the end, must follow there;
* where packets are numbered (SOP markers), no number is missing;
* packets have no run of FF, because coders stuff a bit after one. (FFmpeg cuts layers after one, so
  two may be adjacent);
* codes of the arithmetic coder have no runs of a thousand zeros. An empty packet is one zero byte,
  so a run may be longer by the number of packets, which the header states.

Runs are not checked where coefficients may be uncoded: in bypass mode, in High-Throughput JPEG
2000, and where tiles or components have their own coding style.

Format: ITU-T T.800 annexes A.4 (parts), A.6.1 (coding style), A.8.1 (SOP), B.6 (precincts),
B.10 (packets).
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

_MOST_TILES = 4096
"""Most tiles: each costs a decoder memory, however small it is."""
_LONGEST_RUN_IN_CODES = 1024
"""Most zero bytes in a row. Codes of X-rays have at most 14, codes of a ramp without noise 445. A
run ends with its code-block, which has at most 4096 coefficients."""

_CODING_STYLE, _COMPONENT_STYLE, _START_OF_DATA = 0xFF52, 0xFF53, 0xFF93
_START_OF_TILE, _END = b"\xff\x90", b"\xff\xd9"
_PACKET_START = re.compile(rb"\xff\x91\x00\x04(..)", re.DOTALL)
_RUN_OF_ONES = b"\xff\xff\xff"
_OWN_PRECINCTS, _NUMBERED_PACKETS = 1, 2
_BYPASS, _HIGH_THROUGHPUT = 0x01, 0x40
_LARGEST_PRECINCT = 15


@dataclass(frozen=True)
class _Grid:
    """Sizes of picture and tiles in pixels, and the number of components."""

    tiles: int
    tile_width: int
    tile_height: int
    components: int


def check_jpeg_2000_parts(codestream: bytes) -> None:
    """Refuse a JPEG 2000 codestream that shows that a part is missing.

    Raises:
        ValueError: it is incomplete, or has an implausible number of tiles.
        struct.error: it ends inside a header.
    """
    grid = _read_grid(codestream)
    position = 2
    style = b""
    is_uniform = True
    while codestream[position : position + 2] != _START_OF_TILE:
        marker, length = _segment(codestream, position)
        if marker == _CODING_STYLE:
            style = codestream[position + 4 : position + 2 + length]
        is_uniform &= marker != _COMPONENT_STYLE
        position += 2 + length
    packets: dict[int, list[bytes]] = {}
    while codestream[position : position + 2] == _START_OF_TILE:
        tile, part_bytes = struct.unpack_from(">HI", codestream, position + 4)
        if part_bytes == 0:  # the last one may state 0: up to the end
            part_bytes = len(codestream.rstrip(b"\0")) - 2 - position
        if part_bytes < 14:
            raise ValueError("a tile-part is shorter than its header")
        start, has_own_style = _start_of_data(codestream, position)
        is_uniform &= not has_own_style
        packets.setdefault(tile, []).append(codestream[start : position + part_bytes])
        position += part_bytes
    if codestream[position : position + 2] != _END or len(packets) < grid.tiles:
        raise ValueError("a tile-part is missing")
    _check_packets(packets, style, grid, is_uniform)


def _read_grid(codestream: bytes) -> _Grid:
    right, bottom, left, top, tile_width, tile_height = struct.unpack_from(">6I", codestream, 8)
    (components,) = struct.unpack_from(">H", codestream, 40)
    if not tile_width or not tile_height:
        raise ValueError("the tiles have no size")
    tiles = -(-(right - left) // tile_width) * -(-(bottom - top) // tile_height)
    if tiles > _MOST_TILES:
        raise ValueError("the codestream has implausibly many tiles")
    size = min(tile_width, right - left), min(tile_height, bottom - top)
    return _Grid(tiles, *size, components)


def _segment(codestream: bytes, position: int) -> tuple[int, int]:
    """Return marker and length of a marker segment."""
    marker, length = struct.unpack_from(">HH", codestream, position)
    if marker < 0xFF00 or length < 2:
        raise ValueError("a marker was expected")
    return int(marker), int(length)


def _start_of_data(codestream: bytes, position: int) -> tuple[int, bool]:
    """Return where the packets of a tile-part begin, and whether it has its own coding style.

    Args:
        codestream: the whole codestream.
        position: start of the tile-part.
    """
    has_own_style = False
    position += 12
    while True:
        (marker,) = struct.unpack_from(">H", codestream, position)
        if marker == _START_OF_DATA:
            return position + 2, has_own_style
        marker, length = _segment(codestream, position)
        has_own_style |= marker in (_CODING_STYLE, _COMPONENT_STYLE)
        position += 2 + length


def _check_packets(
    packets: dict[int, list[bytes]], style: bytes, grid: _Grid, is_uniform: bool
) -> None:
    if any(_RUN_OF_ONES in part for parts in packets.values() for part in parts):
        raise ValueError("a hole of ones lies in the packets")
    flags, _, layers, _, levels, _, _, block_style = struct.unpack_from(">BBHBBBBB", style)
    if flags & _NUMBERED_PACKETS:
        for parts in packets.values():
            found = [each for part in parts for each in _PACKET_START.findall(part)]
            numbers = [int.from_bytes(each, "big") for each in found]
            if numbers != [place % 65_536 for place in range(len(numbers))]:
                raise ValueError("a packet is missing")
    if block_style & (_BYPASS | _HIGH_THROUGHPUT) or not is_uniform:
        return
    precincts = style[10:] if flags & _OWN_PRECINCTS else b""
    most = _LONGEST_RUN_IN_CODES + layers * grid.components * _precincts(precincts, levels, grid)
    run = bytes(most + 1)
    if any(run in part for parts in packets.values() for part in parts):
        raise ValueError("a hole of zeros lies in the codes")


def _precincts(sizes: bytes, levels: int, grid: _Grid) -> int:
    """Return the most precincts that one component of a tile has at all resolutions together."""
    count = 0
    for resolution in range(levels + 1):
        size = sizes[resolution] if resolution < len(sizes) else 0xFF
        scale = levels - resolution
        across = (grid.tile_width >> scale >> min(size & 15, _LARGEST_PRECINCT)) + 2
        down = (grid.tile_height >> scale >> min(size >> 4, _LARGEST_PRECINCT)) + 2
        count += across * down
    return count
