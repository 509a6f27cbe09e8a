"""Find header and pixels in a DICOM file with bounded work, before any library parses them.

A few megabytes can hold millions of empty items. A library makes an object of each, which takes
gigabytes of memory. Here elements are skipped by their lengths. pydicom gets only the elements that
an X-ray needs, and never private groups, overlays, curves, icons and signatures. Deflated data sets
are inflated up to a limit.

Format: DICOM PS3.5, sections 7 (elements, items) and A.4 (fragments); PS3.10, section 7.1.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from io import BytesIO
from typing import NamedTuple

from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filereader import read_dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from model_store.pictures.picture_errors import UndecodablePictureError

MOST_VISITED = 10_000
"""Most elements, items and fragments skipped in one file; skipping one takes microseconds."""
MOST_KEPT = 5_000
"""Most elements and items given to pydicom, which is slower. X-rays have a few hundred."""
MOST_LEVELS = 32
"""Deepest nesting of items; X-rays have two or three levels."""
MOST_VALUE_BYTES = 1 << 20
"""Longer elements of a header are dropped; the largest in use, a lookup table, has 128 KB."""
MOST_HEADER_BYTES = 4 << 20

_UNDEFINED_LENGTH = 0xFFFFFFFF
_ORDINARY_INFLATED_BYTES = 64 << 20
"""Bytes of an X-ray with 32 million pixels of 16 bits; larger files may be valid, or a bomb."""
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_PIXEL_DATA = 0x7FE00010
_META_KEPT = frozenset([0x00020002, 0x00020003, 0x00020010])
_ICON_IMAGE_SEQUENCE = 0x00880200
_LONG_REPRESENTATIONS = frozenset(
    "OB OD OF OL OV OW SQ SV UC UN UR UT UV".split()  # noqa: SIM905  -- as the standard lists them
)


@dataclass(frozen=True)
class StoredPixels:
    """The value of the pixel data element, not decoded.

    Attributes:
        representation: "OB", "OW" or another value representation; "OW" in implicit files.
        native: the bytes of uncompressed pixels; None where they are encapsulated.
        fragments: the fragments of encapsulated pixels, without the offset table.
    """

    representation: str
    native: memoryview | None
    fragments: tuple[memoryview, ...] = ()

    @property
    def frame(self) -> bytes:
        """The frame, joined from its fragments."""
        return b"".join(self.fragments)


@dataclass(frozen=True)
class DicomFile:
    """A DICOM file, read as far as an X-ray needs.

    Attributes:
        header: the elements in use, with `file_meta`, without pixels. It names the patient: never
            log it.
        syntax: transfer syntax; guessed from the data if the file names none.
        is_little_endian: byte order of the data set.
        pixels: the pixel data, or None where the file has none.
    """

    header: Dataset
    syntax: UID
    is_little_endian: bool
    pixels: StoredPixels | None


class _Coding(NamedTuple):
    is_implicit: bool
    is_little_endian: bool
    word: struct.Struct  # one of 16 bits
    words: struct.Struct  # two of them
    long: struct.Struct  # one of 32 bits


def _coding(is_implicit: bool, is_little_endian: bool) -> _Coding:
    order = "<" if is_little_endian else ">"
    word, words, long = (struct.Struct(order + name) for name in ("H", "HH", "L"))
    return _Coding(is_implicit, is_little_endian, word, words, long)


_NESTED_UNKNOWN = _coding(True, True)  # PS3.5, section 6.2.2, note 2
_META_CODING = _coding(False, True)


class _Element(NamedTuple):
    tag: int
    representation: str  # empty in implicit files and for items
    start: int
    value_start: int
    length: int

    @property
    def is_open(self) -> bool:
        return self.length == _UNDEFINED_LENGTH

    @property
    def end(self) -> int:
        return self.value_start + self.length


class _Level(Enum):
    ELEMENTS = 1
    ITEMS = 2
    FRAGMENTS = 3


def read_dicom_file(
    data: bytes, most_inflated_bytes: int, before_much: Callable[[int], None] | None = None
) -> DicomFile:
    """Read the header of a DICOM file and find its pixels.

    Args:
        data: the file, with or without preamble and file meta information.
        most_inflated_bytes: most bytes that a deflated data set may have.
        before_much: called with the bytes inflated so far, before more is inflated than an ordinary
            X-ray has.

    Raises:
        UndecodablePictureError: truncated, damaged, or with more elements than any X-ray has.
        ValueError: pydicom could not build the header.
    """
    try:
        return _read(data, most_inflated_bytes, before_much)
    except (struct.error, EOFError, zlib.error):
        raise _truncated() from None


def _read(
    data: bytes, most_inflated_bytes: int, before_much: Callable[[int], None] | None
) -> DicomFile:
    start = 132 if data[128:132] == b"DICM" else 0
    meta_bytes, position, meta_coding = _Scan(data).meta(start)
    meta = FileMetaDataset(read_dataset(BytesIO(meta_bytes), meta_coding.is_implicit, True))
    named = UID(str(meta.get("TransferSyntaxUID", "") or ""))
    if named == DeflatedExplicitVRLittleEndian:
        data, position = _inflated(data[position:], most_inflated_bytes, before_much), 0
    coding = _coding_of(data, position, named)
    kept, pixels = _Scan(data).data_set(position, coding)
    header = read_dataset(BytesIO(kept), coding.is_implicit, coding.is_little_endian)
    syntax = named or _native_syntax(coding)
    meta.TransferSyntaxUID = syntax
    header.file_meta = meta
    return DicomFile(header, syntax, coding.is_little_endian, pixels)


class _Scan:
    """One walk over a file, with a budget."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.visited = 0
        self.kept_elements = 0
        self.kept_bytes = 0
        self.kept: list[bytes] = []

    def meta(self, position: int) -> tuple[bytes, int, _Coding]:
        """Return the elements of the file meta information, its end, and its coding."""
        coding = _META_CODING
        if not _is_representation(self.data[position + 4 : position + 6]):
            coding = _coding(True, True)
        while self.data[position : position + 2] == b"\x02\x00":
            element = self._element(position, coding)
            if element.tag in _META_KEPT:
                self._keep(element.start, element.end)
            position = self._end_of(element, coding)
        return b"".join(self.kept), position, coding

    def data_set(self, position: int, coding: _Coding) -> tuple[bytes, StoredPixels | None]:
        """Return the elements in use, and the pixels."""
        while position + 8 <= len(self.data):
            element = self._element(position, coding)
            if element.tag >= _PIXEL_DATA:
                pixels = self._pixels(element) if element.tag == _PIXEL_DATA else None
                return b"".join(self.kept), pixels
            visited_before = self.visited
            position = self._end_of(element, coding)
            if _is_used(element.tag) and position - element.start <= MOST_VALUE_BYTES:
                self.kept_elements += self.visited - visited_before
                self._keep(element.start, position)
        return b"".join(self.kept), None

    def _keep(self, start: int, end: int) -> None:
        self.kept_elements += 1
        self.kept_bytes += end - start
        if self.kept_elements > MOST_KEPT or self.kept_bytes > MOST_HEADER_BYTES:
            raise _too_many()
        self.kept.append(self.data[start:end])

    def _pixels(self, element: _Element) -> StoredPixels:
        representation = element.representation or "OW"
        view = memoryview(self.data)
        if not element.is_open:
            held = len(self.data) - element.value_start
            if element.length > held:
                raise UndecodablePictureError(
                    f"The DICOM pixel data state {element.length} bytes and hold {held}; "
                    "send the file again in full."
                )
            return StoredPixels(representation, view[element.value_start : element.end])
        fragments: list[memoryview] = []
        position = element.value_start
        while True:
            if fragments and position == len(self.data):  # some writers leave the delimiter out
                return StoredPixels(representation, None, tuple(fragments[1:]))
            item = self._element(position, _NESTED_UNKNOWN)
            if item.tag == _SEQUENCE_END:
                return StoredPixels(representation, None, tuple(fragments[1:]))
            if item.tag != _ITEM or item.end > len(self.data):
                raise _truncated()
            fragments.append(view[item.value_start : item.end])
            position = item.end

    def _end_of(self, element: _Element, coding: _Coding) -> int:
        """Return where an element ends; walk through kept sequences and undefined lengths."""
        if not element.is_open and not (_is_used(element.tag) and _is_sequence(element)):
            if element.end > len(self.data):
                raise _truncated()
            return element.end
        return self._end_of_nested(element, coding)

    def _end_of_nested(self, element: _Element, coding: _Coding) -> int:
        levels = [_opened(element, coding)]
        position = element.value_start
        while levels:
            level, end, coding = levels[-1]
            if end is not None and position >= end:
                if position > end:
                    raise _truncated()
                levels.pop()
                continue
            inner = self._element(position, coding)
            position = inner.value_start
            if inner.tag in (_SEQUENCE_END, _ITEM_END):
                levels.pop()
            elif level is _Level.ITEMS:
                if inner.tag != _ITEM:
                    raise _truncated()
                item_end = None if inner.is_open else inner.end
                levels.append((_Level.ELEMENTS, item_end, coding))
            elif level is _Level.ELEMENTS and (inner.is_open or _is_sequence(inner)):
                levels.append(_opened(inner, coding))
                if len(levels) > MOST_LEVELS:
                    raise _too_many()
            else:
                position = inner.end
            if position > len(self.data):
                raise _truncated()
        return position

    def _element(self, position: int, coding: _Coding) -> _Element:
        self.visited += 1
        if self.visited > MOST_VISITED:
            raise _too_many()
        data = self.data
        group, number = coding.words.unpack_from(data, position)
        tag = group << 16 | number
        letters = b"" if coding.is_implicit else data[position + 4 : position + 6]
        if group == 0xFFFE or not _is_representation(letters):
            (length,) = coding.long.unpack_from(data, position + 4)
            return _Element(tag, "", position, position + 8, length)
        representation = letters.decode("ascii")
        if representation in _LONG_REPRESENTATIONS:
            (length,) = coding.long.unpack_from(data, position + 8)
            return _Element(tag, representation, position, position + 12, length)
        (length,) = coding.word.unpack_from(data, position + 6)
        return _Element(tag, representation, position, position + 8, length)


def _opened(element: _Element, coding: _Coding) -> tuple[_Level, int | None, _Coding]:
    """Return the nested level that begins inside an element."""
    end = None if element.is_open else element.end
    if element.tag == _PIXEL_DATA or element.representation in ("OB", "OW"):
        return _Level.FRAGMENTS, end, coding
    return _Level.ITEMS, end, _NESTED_UNKNOWN if element.representation == "UN" else coding


def _is_sequence(element: _Element) -> bool:
    if element.representation:
        return element.representation == "SQ"
    try:
        return dictionary_VR(element.tag) == "SQ"
    except KeyError:
        return False


def _is_used(tag: int) -> bool:
    group = tag >> 16
    if group & 1 or not tag & 0xFFFF or group in (0x0400, 0x7FE0) or 0x5000 <= group < 0x5100:
        return False  # private, group lengths, signatures, pixels in other forms, curves
    if 0x6000 <= group < 0x6100:
        return tag & 0xFFFF != 0x3000  # the description of an overlay, not its pixels
    return tag != _ICON_IMAGE_SEQUENCE


def _is_representation(letters: bytes) -> bool:
    return len(letters) == 2 and letters.isalpha() and letters.isupper()


def _coding_of(data: bytes, position: int, named: UID) -> _Coding:
    """Return the coding of the data set: its transfer syntax's, unless the data contradict it."""
    is_little_endian = named != ExplicitVRBigEndian
    if not named and data[position : position + 1] == b"\0":  # group 0008, highest byte first
        is_little_endian = False
    return _coding(not _is_representation(data[position + 4 : position + 6]), is_little_endian)


def _native_syntax(coding: _Coding) -> UID:
    if coding.is_implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if coding.is_little_endian else ExplicitVRBigEndian


def _inflated(deflated: bytes, most_bytes: int, before_much: Callable[[int], None] | None) -> bytes:
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    plain = stream.decompress(deflated, min(most_bytes, _ORDINARY_INFLATED_BYTES))
    if stream.unconsumed_tail and len(plain) < most_bytes:
        if before_much is not None:
            before_much(len(plain))
        plain += stream.decompress(stream.unconsumed_tail, most_bytes - len(plain))
    if not stream.eof:
        if stream.unconsumed_tail:
            raise UndecodablePictureError(
                "The deflated DICOM data set is larger than an X-ray within the limits."
            )
        raise _truncated()
    return plain


def _truncated() -> UndecodablePictureError:
    return UndecodablePictureError("The DICOM file is truncated or damaged; send it again in full.")


def _too_many() -> UndecodablePictureError:
    return UndecodablePictureError(
        "The DICOM header has more elements and items than that of any X-ray; remove its private "
        "sequences."
    )
