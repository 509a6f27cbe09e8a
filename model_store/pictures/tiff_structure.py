"""Read the tags of a TIFF file that its pixels need, with bounds, and find the pixels.

An unneeded tag may have millions of values, and a library makes an object of each. Here only the
tags named below are read, each up to its own number of values; the rest is skipped. Classic TIFF
and BigTIFF in both byte orders.

Format: TIFF revision 6.0, section 2 and 8; BigTIFF as libtiff describes it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from model_store.pictures.picture_errors import UndecodablePictureError, UnsupportedPictureError

_MOST_ENTRIES = 4096
_MOST_BLOCKS = 1 << 18
"""Most strips or tiles; with the smallest tiles, 16 x 16 pixels, they make 67 megapixels."""

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_FILL_ORDER, _STRIP_OFFSETS, _ORIENTATION, _SAMPLES, _ROWS_PER_STRIP = 266, 273, 274, 277, 278
_STRIP_BYTES, _PLANAR, _PREDICTOR = 279, 284, 317
_COLOUR_MAP, _TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_BYTES = 320, 322, 323, 324, 325
_EXTRA_SAMPLES, _SAMPLE_FORMAT, _JPEG_TABLES = 338, 339, 347
_MOST_VALUES = {
    **dict.fromkeys(
        (_WIDTH, _HEIGHT, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER, _ORIENTATION, _SAMPLES), 1
    ),
    **dict.fromkeys((_ROWS_PER_STRIP, _PLANAR, _PREDICTOR), 1),
    **dict.fromkeys((_TILE_WIDTH, _TILE_HEIGHT), 1),
    **dict.fromkeys((_STRIP_OFFSETS, _STRIP_BYTES, _TILE_OFFSETS, _TILE_BYTES), _MOST_BLOCKS),
    **dict.fromkeys((_BITS, _EXTRA_SAMPLES, _SAMPLE_FORMAT), 8),
    _COLOUR_MAP: 3 * 256,
    _JPEG_TABLES: 65_536,
}
_TYPES = {1: "B", 3: "H", 4: "L", 7: "B", 16: "Q"}  # BYTE, SHORT, LONG, UNDEFINED, LONG8
_NO_COMPRESSION = 1
_WHOLE_IMAGE = 0xFFFFFFFF


@dataclass(frozen=True)
class TiffLayout:
    """How a TIFF file stores its first picture.

    Attributes:
        order: byte order of 16-bit values, "<" or ">".
        width: width in pixels.
        height: height in pixels.
        bits: bits per sample, the same for each.
        samples: samples per pixel.
        compression: number of the compression scheme.
        photometric: meaning of the values; None if the file does not state it.
        is_bit_reversed: the first pixel of a byte is its lowest bit.
        is_planar: each sample has its own blocks.
        predictor: 1 for none, 2 for differences along a row.
        sample_formats: 1 for unsigned; other values are refused.
        extra_samples: meaning of the samples beyond those of the colour: 1 or 2 for alpha.
        colour_map: reds, greens and blues of a palette.
        jpeg_tables: tables that all blocks share.
        orientation: 1 to 8, as EXIF.
        block_width: width of a strip or tile in pixels.
        block_height: height of a strip or tile in pixels; the last strip may be shorter.
        is_tiled: tiles are always whole.
        blocks: (first byte, number of bytes) of each strip or tile.
    """

    order: str
    width: int
    height: int
    bits: int
    samples: int
    compression: int
    photometric: int | None
    is_bit_reversed: bool
    is_planar: bool
    predictor: int
    sample_formats: frozenset[int]
    extra_samples: tuple[int, ...]
    colour_map: tuple[int, ...]
    jpeg_tables: bytes
    orientation: int
    block_width: int
    block_height: int
    is_tiled: bool
    blocks: tuple[tuple[int, int], ...]

    @property
    def columns(self) -> int:
        """Blocks in a row."""
        return -(-self.width // self.block_width)

    @property
    def rows(self) -> int:
        """Blocks in a column."""
        return -(-self.height // self.block_height)

    @property
    def block_samples(self) -> int:
        """Samples per pixel in one block."""
        return 1 if self.is_planar else self.samples

    def rows_of_block(self, number: int) -> int:
        """Return the rows of pixels that a block holds."""
        if self.is_tiled:
            return self.block_height
        first = number % self.rows * self.block_height
        return min(self.block_height, self.height - first)

    def check_blocks(self, file_bytes: int) -> None:
        """Refuse a picture with missing blocks.

        Raises:
            UndecodablePictureError: sparse, truncated, or with too few blocks.
        """
        planes = self.samples if self.is_planar else 1
        needed = self.columns * self.rows * planes
        present = self.blocks[:needed]
        if len(present) < needed or not all(start and size for start, size in present):
            raise UndecodablePictureError(
                "A part of the TIFF picture is missing (StripOffsets or TileOffsets); send it "
                "again in full."
            )
        if any(start + size > file_bytes for start, size in present):
            raise UndecodablePictureError("The TIFF file is truncated; send it again in full.")


def read_tiff_layout(data: bytes) -> TiffLayout:
    """Read the tags of the first picture.

    Args:
        data: the file, with its TIFF signature.

    Raises:
        UndecodablePictureError: truncated, or a tag is missing or contradicts another.
        UnsupportedPictureError: several pages.
        struct.error: truncated.
    """
    order = "<" if data[:2] == b"II" else ">"
    tags = _read_tags(data, order)
    width, height = _one(tags, _WIDTH), _one(tags, _HEIGHT)
    samples = _one(tags, _SAMPLES, 1)
    bits = tags.get(_BITS, (1,))
    if len(set(bits)) != 1:
        raise UnsupportedPictureError("The TIFF file has samples of several depths.")
    is_tiled = _TILE_WIDTH in tags
    block_width = _one(tags, _TILE_WIDTH) if is_tiled else width
    block_height = (
        _one(tags, _TILE_HEIGHT) if is_tiled else _one(tags, _ROWS_PER_STRIP, _WHOLE_IMAGE)
    )
    if not is_tiled:
        block_height = min(block_height, height)
    if min(width, height, samples, block_width, block_height, bits[0]) < 1:
        raise UndecodablePictureError("The TIFF file gives no valid size.")
    return TiffLayout(
        order=order,
        width=width,
        height=height,
        bits=bits[0],
        samples=samples,
        compression=_one(tags, _COMPRESSION, _NO_COMPRESSION),
        photometric=_one(tags, _PHOTOMETRIC) if _PHOTOMETRIC in tags else None,
        is_bit_reversed=_one(tags, _FILL_ORDER, 1) == 2,
        is_planar=_one(tags, _PLANAR, 1) == 2 and samples > 1,
        predictor=_one(tags, _PREDICTOR, 1),
        sample_formats=frozenset(tags.get(_SAMPLE_FORMAT, (1,))),
        extra_samples=tags.get(_EXTRA_SAMPLES, ()),
        colour_map=tags.get(_COLOUR_MAP, ()),
        jpeg_tables=bytes(tags.get(_JPEG_TABLES, ())),
        orientation=_one(tags, _ORIENTATION, 1),
        block_width=block_width,
        block_height=block_height,
        is_tiled=is_tiled,
        blocks=_blocks(tags, is_tiled, len(data)),
    )


def _read_tags(data: bytes, order: str) -> dict[int, tuple[int, ...]]:
    is_big = data[2:4] in (b"+\0", b"\0+")
    count_format, entry_format, link_format = ("Q", "HHQ", "Q") if is_big else ("H", "HHL", "L")
    position = _unpack(data, order + ("Q" if is_big else "L"), 8 if is_big else 4)[0]
    (count,) = _unpack(data, order + count_format, position)
    if count > _MOST_ENTRIES:
        raise UndecodablePictureError("The TIFF file has implausibly many tags.")
    position += struct.calcsize(order + count_format)
    entry_bytes = struct.calcsize(order + entry_format + link_format)
    tags: dict[int, tuple[int, ...]] = {}
    for start in range(position, position + count * entry_bytes, entry_bytes):
        tag, kind, values = _unpack(data, order + entry_format, start)
        if tag in _MOST_VALUES and tag not in tags:
            inline = data[start + struct.calcsize(order + entry_format) : start + entry_bytes]
            tags[tag] = _values(data, order, (tag, kind, values), inline, link_format)
    (following,) = _unpack(data, order + link_format, position + count * entry_bytes)
    if 0 < following < len(data):
        raise UnsupportedPictureError("The TIFF file has several pages; send a single X-ray.")
    return tags


def _values(
    data: bytes, order: str, entry: tuple[int, int, int], inline: bytes, link_format: str
) -> tuple[int, ...]:
    tag, kind, count = entry
    if kind not in _TYPES:
        raise UndecodablePictureError(f"The TIFF file's tag {tag} is not a whole number.")
    if not 1 <= count <= _MOST_VALUES[tag]:
        raise UndecodablePictureError(f"The TIFF file's tag {tag} has {count} values.")
    value_format = f"{order}{count}{_TYPES[kind]}"
    if struct.calcsize(value_format) <= len(inline):
        return _unpack(inline, value_format, 0)
    (position,) = _unpack(inline, order + link_format, 0)
    return _unpack(data, value_format, position)


def _unpack(data: bytes, value_format: str, position: int) -> tuple[int, ...]:
    if position > len(data):  # perhaps too large an offset for struct
        raise UndecodablePictureError("The TIFF file is truncated; send it again in full.")
    return struct.unpack_from(value_format, data, position)


def _one(tags: dict[int, tuple[int, ...]], tag: int, default: int | None = None) -> int:
    if tag in tags:
        return tags[tag][0]
    if default is None:
        raise UndecodablePictureError(f"The TIFF file lacks tag {tag}, which its pixels need.")
    return default


def _blocks(
    tags: dict[int, tuple[int, ...]], is_tiled: bool, file_bytes: int
) -> tuple[tuple[int, int], ...]:
    starts = tags.get(_TILE_OFFSETS if is_tiled else _STRIP_OFFSETS, ())
    sizes = tags.get(_TILE_BYTES if is_tiled else _STRIP_BYTES, ())
    if len(starts) == 1 and not sizes:  # old writers of one strip leave the size out
        sizes = (max(0, file_bytes - starts[0]),)
    return tuple(zip(starts, sizes, strict=False))
