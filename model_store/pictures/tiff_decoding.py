"""Decode TIFF files to grey: 1 to 16 bits of grey, palettes, RGB of 8 and 16 bits, CMYK of 8.

Strips and tiles are decoded one by one, because libraries are lenient: a JPEG strip cut in half, a
missing strip and a deflate stream with a wrong checksum all silently give pixels. Nothing is
guessed: without a photometric interpretation nobody knows whether zero is black or white. Fax codes
(CCITT) are not supported, because libtiff fills damaged parts with white and nothing reveals it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from io import BytesIO
from typing import Any

import imagecodecs
import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from model_store.pictures.codestream_header import read_codestream_header
from model_store.pictures.deep_colour import deep_colour_to_grey
from model_store.pictures.grey_conversion import (
    DECODER_ERRORS,
    Decoded,
    composited,
    damaged,
    inverted,
    to_grey,
    turned,
)
from model_store.pictures.jpeg_pixels import (
    USUAL_SCANS,
    read_jpeg,
    scans_in,
    with_colour_transform,
)
from model_store.pictures.orientation import orientation_of_exif
from model_store.pictures.picture_errors import (
    PictureError,
    TooManyPixelsError,
    UndecodablePictureError,
    UnsupportedPictureError,
)
from model_store.pictures.picture_size import check_picture_size
from model_store.pictures.picture_warnings import PictureWarning
from model_store.pictures.pixel_coding import BeforeDecoding, PixelCoding, accept_any
from model_store.pictures.tiff_structure import TiffLayout, read_tiff_layout

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 1, 2, 3, 5, 6
_COLOUR_SAMPLES = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3, _PALETTE: 1, _CMYK: 4, _YCBCR: 3}
_NONE, _LZW, _JPEG, _DEFLATE, _OLD_DEFLATE, _PACKBITS = 1, 5, 7, 8, 32946, 32773
_CODINGS = {
    _NONE: PixelCoding.NATIVE,
    _PACKBITS: PixelCoding.RLE,
}
_BY_PILLOW = {34925: "LZMA", 50000: "Zstandard"}
_NOT_READ = {
    2: "CCITT (fax)",
    3: "CCITT (fax)",
    4: "CCITT (fax)",
    6: "JPEG of the old kind",
    32766: "NeXT",
    32809: "ThunderScan",
    33003: "JPEG 2000",
    33005: "JPEG 2000",
    34676: "SGI LogLuv",
    34677: "SGI LogLuv",
    34712: "JPEG 2000",
    34887: "LERC",
    34892: "JPEG with loss (DNG)",
    50001: "WebP",
    50002: "JPEG XL",
    52546: "JPEG XL",
}
_REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_ASSOCIATED_ALPHA, _UNASSOCIATED_ALPHA = 1, 2
_INFLATE_ERROR: type[Exception] = isal_zlib.error  # type: ignore[assignment]  # a class, not one


def decode_tiff(
    data: bytes, max_pixels: int, before_decoding: BeforeDecoding = accept_any
) -> Decoded:
    """Decode a TIFF file of one page.

    Args:
        data: the file, with its TIFF or BigTIFF signature.
        max_pixels: most pixels allowed.
        before_decoding: called with coding and number of pixels; may refuse by raising.

    Returns:
        Grey pixels (H, W) uint8 or uint16, and what was changed.

    Raises:
        UndecodablePictureError: truncated, damaged, incomplete, or without the meaning of its
            values.
        UnsupportedPictureError: several pages, signed or floating point samples, or another
            unsupported kind.
        TooManyPixelsError: above the limit.
        PictureShapeError: a side is too short.
    """
    try:
        layout = read_tiff_layout(data)
        check_picture_size(layout.width, layout.height, max_pixels)
        _check_kind(layout, max_pixels)
        layout.check_blocks(len(data))
        before_decoding(_coding_of(data, layout), layout.width * layout.height)
        pixels, warnings = _meaning(_samples(data, layout), layout)
    except PictureError:
        raise
    except DECODER_ERRORS:
        raise damaged("TIFF") from None
    return turned(pixels, warnings, orientation_of_exif(layout.orientation))


def _coding_of(data: bytes, layout: TiffLayout) -> PixelCoding:
    if layout.compression != _JPEG:
        return _CODINGS.get(layout.compression, PixelCoding.DEFLATE)
    are_shared = sum(size for _, size in layout.blocks) > len(data)  # scans, too
    if are_shared or any(scans_in(data, at, at + size) > USUAL_SCANS for at, size in layout.blocks):
        return PixelCoding.JPEG_SCANS
    return PixelCoding.JPEG


def _check_kind(layout: TiffLayout, max_pixels: int) -> None:
    if layout.photometric is None:
        raise UndecodablePictureError(
            "The TIFF file does not say whether its lowest value is black or white "
            "(PhotometricInterpretation)."
        )
    if layout.sample_formats != {1}:
        raise UnsupportedPictureError(
            "The TIFF file holds signed, floating point or other values that are not read; send "
            "unsigned grey of 8 or 16 bits."
        )
    if layout.compression in _NOT_READ:
        name = _NOT_READ[layout.compression]
        raise UnsupportedPictureError(f"TIFF compressed as {name} is not read; send it as PNG.")
    if layout.compression not in {*_DECODERS, *_BY_PILLOW, _JPEG}:
        raise UnsupportedPictureError(
            f"TIFF compressed by scheme {layout.compression} is not read; send it as PNG."
        )
    colour_samples = _COLOUR_SAMPLES.get(layout.photometric)
    is_plain_ycbcr = layout.photometric == _YCBCR and layout.compression != _JPEG
    if colour_samples is None or is_plain_ycbcr or not 0 <= layout.samples - colour_samples <= 1:
        raise UnsupportedPictureError(
            "The TIFF file has colours or channels of a kind that is not read; send grey or RGB."
        )
    is_grey = layout.photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO)
    if layout.bits > 16 or (layout.photometric == _PALETTE and layout.bits > 8):
        raise UnsupportedPictureError(
            f"The TIFF file has {layout.bits} bits per sample; send unsigned grey of 8 or 16 bits."
        )
    colour_depths = (8, 16) if layout.photometric == _RGB else (8,)
    if not is_grey and layout.photometric != _PALETTE and layout.bits not in colour_depths:
        raise UnsupportedPictureError(
            f"The TIFF file has colours of {layout.bits} bits per sample; send RGB of 8 or 16 "
            "bits, or grey."
        )
    if layout.predictor not in (1, 2) or (layout.predictor == 2 and layout.bits not in (8, 16)):
        raise UnsupportedPictureError("The TIFF file's predictor is not read; send it as PNG.")
    if layout.block_width * layout.block_height > max(max_pixels, layout.width * layout.height):
        raise TooManyPixelsError(
            f"The TIFF file has tiles of {layout.block_width * layout.block_height} pixels; the "
            f"limit is {max_pixels}."
        )


def _samples(data: bytes, layout: TiffLayout) -> NDArray[Any]:
    """Return the stored values, (H, W, samples)."""
    dtype = np.uint8 if layout.bits <= 8 else np.uint16
    if layout.compression in _BY_PILLOW:
        return _read_by_pillow(data, layout)
    read = _jpeg_block if layout.compression == _JPEG else _plain_block
    out = np.empty((layout.height, layout.width, layout.samples), dtype)
    per_plane = layout.rows * layout.columns
    for number in range(per_plane * (layout.samples if layout.is_planar else 1)):
        start, size = layout.blocks[number]
        block = read(data[start : start + size], layout, number)
        plane, place = divmod(number, per_plane)
        top = place // layout.columns * layout.block_height
        left = place % layout.columns * layout.block_width
        planes = slice(plane, plane + 1) if layout.is_planar else slice(None)
        room = out[top : top + layout.block_height, left : left + layout.block_width, planes]
        room[...] = block[: room.shape[0], : room.shape[1]]
    return out


def _plain_block(raw: bytes, layout: TiffLayout, number: int) -> NDArray[Any]:
    """Return one strip or tile, (rows, columns, samples of a block)."""
    rows, row_values = layout.rows_of_block(number), layout.block_width * layout.block_samples
    row_bytes = (row_values * layout.bits + 7) // 8
    if layout.is_bit_reversed:
        raw = raw.translate(_REVERSED_BITS)
    plain = _DECODERS[layout.compression](raw, layout.block_height * row_bytes)
    if len(plain) < rows * row_bytes:
        raise UndecodablePictureError(
            "A part of the TIFF picture is missing; send it again in full."
        )
    plain = plain[: rows * row_bytes]
    if layout.bits in (8, 16):
        values = np.frombuffer(plain, f"{layout.order}u{layout.bits // 8}")
    else:
        dtype = "uint8" if layout.bits < 8 else ">u2"
        values = imagecodecs.packints_decode(plain, dtype, layout.bits, runlen=row_values)
    block = values.reshape(rows, layout.block_width, layout.block_samples)
    if layout.predictor == 2:
        return np.cumsum(block, axis=1, dtype=f"u{layout.bits // 8}")
    return block


def _jpeg_block(raw: bytes, layout: TiffLayout, number: int) -> NDArray[Any]:
    tables = layout.jpeg_tables.removeprefix(b"\xff\xd8").removesuffix(b"\xff\xd9")
    codestream = raw[:2] + tables + raw[2:]
    header = read_codestream_header(codestream)
    expected = (layout.block_width, layout.block_samples)
    if (header.width, header.components) != expected or not (
        layout.rows_of_block(number) <= header.height <= layout.block_height
    ):
        raise UndecodablePictureError("The TIFF file's JPEG data contradict its tags.")
    if header.precision_bits != layout.bits:
        raise UndecodablePictureError(
            "The TIFF file's JPEG data do not have the depth that its tags say."
        )
    if header.components == 3:
        codestream = with_colour_transform(codestream, layout.photometric == _YCBCR)
    if header.components not in (1, 3):
        raise UnsupportedPictureError("The TIFF file has JPEG data with unusual channels.")
    pixels = read_jpeg(codestream, header, header.components)
    return pixels.reshape(header.height, header.width, header.components)


def _inflate(deflated: bytes, most_bytes: int) -> bytes:
    stream = isal_zlib.decompressobj()
    try:  # more than needed, so that the end with its checksum is read, too
        plain = stream.decompress(deflated, most_bytes + 1)
    except _INFLATE_ERROR:
        plain = b""
    if not stream.eof:
        raise UndecodablePictureError(
            "The TIFF file is damaged (a checksum is wrong, or data are missing); send it again."
        )
    return plain


def _undo_lzw(packed: bytes, most_bytes: int) -> bytes:
    return bytes(imagecodecs.lzw_decode(packed, out=most_bytes))


def _undo_packbits(packed: bytes, most_bytes: int) -> bytes:
    padding_bytes = len(packed) - len(packed.rstrip(b"\0"))  # decoded as codes, they give zeros
    return bytes(imagecodecs.packbits_decode(packed, out=most_bytes + padding_bytes // 2))


_DECODERS: dict[int, Callable[[bytes, int], bytes]] = {
    _NONE: lambda plain, most_bytes: plain,
    _LZW: _undo_lzw,
    _DEFLATE: _inflate,
    _OLD_DEFLATE: _inflate,
    _PACKBITS: _undo_packbits,
}


def _read_by_pillow(data: bytes, layout: TiffLayout) -> NDArray[Any]:
    """Decode rare compressions by libtiff, from a file with only the tags that we know."""
    if layout.samples != 1 or layout.photometric == _PALETTE or layout.bits not in (1, 8, 16):
        raise UnsupportedPictureError(
            f"TIFF compressed as {_BY_PILLOW[layout.compression]} is read as grey of 1, 8 or 16 "
            "bits alone; send it as PNG."
        )
    image = TiffImageFile(BytesIO(_rewritten(data, layout)))
    image.load()
    pixels = np.asarray(image.convert("L") if image.mode == "1" else image)
    if layout.bits == 1:
        pixels = pixels >> 7
    return pixels.astype(np.uint16 if layout.bits == 16 else np.uint8)[..., np.newaxis]


def _rewritten(data: bytes, layout: TiffLayout) -> bytes:
    """Return a classic black-is-zero TIFF with the same compressed strips or tiles."""
    count = len(layout.blocks)
    sizes = [size for _, size in layout.blocks]
    starts = [8 + sum(sizes[:number]) for number in range(count)]
    place = (322, 323, 324, 325) if layout.is_tiled else (0, 278, 273, 279)
    tags = {
        256: [layout.width],
        257: [layout.height],
        258: [layout.bits],
        259: [layout.compression],
        262: [_BLACK_IS_ZERO],
        266: [2 if layout.is_bit_reversed else 1],
        277: [1],
        317: [layout.predictor],
        place[0]: [layout.block_width],
        place[1]: [layout.block_height],
        place[2]: starts,
        place[3]: sizes,
    }
    tags.pop(0, None)
    order, body_bytes = layout.order, 8 + sum(sizes)
    long_values = struct.pack(f"{order}{2 * count}L", *starts, *sizes)
    directory = struct.pack(f"{order}H", len(tags))
    for tag, values in sorted(tags.items()):
        offset = body_bytes + (4 * count if values is sizes else 0)
        value = values[0] if len(values) == 1 else offset
        directory += struct.pack(f"{order}HHLL", tag, 4, len(values), value)
    mark = b"II*\0" if order == "<" else b"MM\0*"
    blocks = b"".join(data[start : start + size] for start, size in layout.blocks)
    head = mark + struct.pack(f"{order}L", body_bytes + len(long_values))
    return b"".join((head, blocks, long_values, directory, bytes(4)))


def _meaning(samples: NDArray[Any], layout: TiffLayout) -> Decoded:
    """Return grey from stored values (H, W, samples)."""
    if layout.photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO):
        return _grey(samples, layout)
    if layout.photometric == _PALETTE:
        return to_grey(Image.fromarray(_palette(layout)[samples[..., 0]]))
    if layout.photometric == _CMYK:
        return to_grey(Image.fromarray(samples[..., :4], "CMYK"))
    alpha = layout.extra_samples[0] if layout.samples == 4 and layout.extra_samples else 0
    if layout.bits == 16:
        has_alpha = alpha in (_ASSOCIATED_ALPHA, _UNASSOCIATED_ALPHA)
        channels = samples if has_alpha else samples[..., :3]
        return deep_colour_to_grey(channels, is_premultiplied=alpha == _ASSOCIATED_ALPHA)
    if alpha == _UNASSOCIATED_ALPHA:
        return to_grey(Image.fromarray(samples, "RGBA"))
    grey, warnings = to_grey(Image.fromarray(np.ascontiguousarray(samples[..., :3])))
    if alpha == _ASSOCIATED_ALPHA and samples[..., 3].min() < 255:
        return grey, (*warnings, composited())  # such colours are already blended with black
    return grey, warnings


def _grey(samples: NDArray[Any], layout: TiffLayout) -> Decoded:
    highest = (1 << layout.bits) - 1
    grey = samples[..., 0]
    warnings: tuple[PictureWarning, ...] = ()
    if layout.photometric == _WHITE_IS_ZERO:
        grey, warnings = (highest - grey).astype(grey.dtype), (inverted(),)
    if layout.samples == 2 and layout.extra_samples[:1] in ((1,), (2,)):
        alpha = samples[..., 1]
        if layout.extra_samples[0] == _UNASSOCIATED_ALPHA:
            product = grey.astype(np.uint64) * alpha
            grey = ((product + highest // 2) // highest).astype(grey.dtype)
        if alpha.min() < highest:
            warnings = (*warnings, composited())
    if layout.bits < 8:
        grey = grey * np.uint8(255 // highest) if 255 % highest == 0 else _stretched(grey, highest)
    return np.ascontiguousarray(grey), warnings


def _stretched(grey: NDArray[Any], highest: int) -> NDArray[Any]:
    return ((grey.astype(np.uint16) * 255 + highest // 2) // highest).astype(np.uint8)


def _palette(layout: TiffLayout) -> NDArray[np.uint8]:
    entries = 1 << layout.bits
    if len(layout.colour_map) != 3 * entries:
        raise UndecodablePictureError("The TIFF file's palette has a wrong number of colours.")
    return (np.array(layout.colour_map, np.uint16).reshape(3, entries).T >> 8).astype(np.uint8)
