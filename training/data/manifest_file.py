"""Reading ``manifest.csv`` in any encoding and with any separator that Excel writes.

Excel writes UTF-8 with a byte order mark, UTF-16 with tabs as "Unicode text", or otherwise the
machine's code page, with semicolons where the comma is the decimal point. Lines that fit none of
them are refused.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from training.errors import DataError

MANIFEST = "manifest.csv"

REQUIRED_COLUMNS = ("name", "split", "source", "convention")

SPLITS = ("train", "val", "test")

_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SEPARATORS = ",;\t"


@dataclass(frozen=True)
class ManifestRecord:
    """One row of the file.

    Attributes:
        line: Its line, counted from 1, the header included.
        fields: Values by column.
    """

    line: int
    fields: dict[str, str]


@dataclass(frozen=True)
class ManifestFile:
    """All rows of a data set.

    Attributes:
        sha256: Hash of its bytes.
        records: Its rows, in order.
    """

    path: Path
    sha256: str
    records: tuple[ManifestRecord, ...]


def read_manifest(root: Path) -> ManifestFile:
    """Read the manifest of a data set.

    Raises:
        DataError: There is none, it is not a table, or a column that every row needs is missing.
    """
    path = root / MANIFEST
    if not path.is_file():
        raise DataError(f"{path} is missing; a data set is a folder with a {MANIFEST}")
    data, records = read_table(path, REQUIRED_COLUMNS)
    return ManifestFile(path, hashlib.sha256(data).hexdigest(), records)


def read_table(path: Path, required: Sequence[str]) -> tuple[bytes, tuple[ManifestRecord, ...]]:
    """Read a table with a header, in any encoding and with any separator that Excel writes.

    Args:
        path: The file.
        required: Columns that it must have.

    Returns:
        Its bytes and its rows; empty lines are left out.

    Raises:
        DataError: It cannot be read, is not text, lacks a column, or a row is longer or shorter
            than the header.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    text = _decoded(data, path)
    header = text.partition("\n")[0]
    separator = max(_SEPARATORS, key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        columns = [name.strip() for name in next(reader, [])]
        _check_columns(columns, required, path)
        records = tuple(
            ManifestRecord(reader.line_num, _fields(columns, row, path, reader.line_num))
            for row in reader
            if any(value.strip() for value in row)
        )
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}") from error
    return data, records


def _decoded(data: bytes, path: Path) -> str:
    marked = [encoding for mark, encoding in _BYTE_ORDER_MARKS if data.startswith(mark)]
    encoding = marked[0] if marked else "utf-8"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        try:
            text = data.decode("cp1252")  # Excel on Windows, in Western Europe and America
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is neither UTF-8, UTF-16 nor Windows-1252: {error}") from error
    if "\0" in text:
        raise DataError(f"{path} is not a text file; save it as CSV in UTF-8")
    return text


def _check_columns(columns: Sequence[str], required: Sequence[str], path: Path) -> None:
    missing = [name for name in required if name not in columns]
    if missing:
        raise DataError(f"{path} lacks the columns {', '.join(missing)}")
    twice = sorted({name for name in columns if name and columns.count(name) > 1})
    if twice:
        raise DataError(f"{path} has the columns {', '.join(twice)} twice")


def _fields(columns: Sequence[str], row: Sequence[str], path: Path, line: int) -> dict[str, str]:
    if len(row) != len(columns):
        raise DataError(
            f"{path}, line {line}: {len(row)} values for {len(columns)} columns; a value that "
            "holds the separator must stand in quotes"
        )
    return dict(zip(columns, row, strict=True))
