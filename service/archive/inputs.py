"""The X-rays of a run with boxes and convention, from folders, patterns and tables."""

from __future__ import annotations

import hashlib
import io
import json
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow
from pyarrow import csv, fs, parquet

from service.archive.errors import ArchiveError
from service.archive.locations import Location, location_of

INPUT_SCHEMA = pyarrow.schema(
    [
        pyarrow.field("input_id", pyarrow.string()),
        pyarrow.field("input", pyarrow.string()),
        pyarrow.field("boxes", pyarrow.string()),
        pyarrow.field("convention", pyarrow.string()),
    ]
)
NAME_COLUMNS = ("input", "image", "path", "file")
BOX_COLUMNS = ("boxes", "bbox")
CORNER_COLUMNS = ("x0", "y0", "x1", "y1")
MOST_TABLE_BYTES = 2**34
_GLOB_LETTERS = frozenset("*?[")
_GLOB_TOKENS = re.compile(r"\*\*/|\*\*|\*|\?|\[[^\]]+\]|.", re.DOTALL)
_GLOB_MEANINGS = {"**/": "(?:[^/]+/)*", "**": ".*", "*": "[^/]*", "?": "[^/]"}
_TABLES = (".csv", ".parquet")


@dataclass(frozen=True)
class ArchiveInput:
    """One X-ray with boxes and convention.

    Attributes:
        address: path or address of the file.
        boxes: `x0,y0,x1,y1` of each box, separated by `;`; empty for the whole image. They are
            checked when the X-ray is segmented, so a wrong box fails only its own row.
        convention: convention of its mask.
    """

    address: str
    boxes: str
    convention: str

    @property
    def input_id(self) -> str:
        """Identifies file, boxes and convention together: 16 hexadecimal digits."""
        named = json.dumps([self.address, self.boxes, self.convention])
        return hashlib.sha256(named.encode()).hexdigest()[:16]

    def row(self) -> dict[str, str]:
        """Return it as a row of `INPUT_SCHEMA`."""
        return {
            "input_id": self.input_id,
            "input": self.address,
            "boxes": self.boxes,
            "convention": self.convention,
        }


def inputs_of(sources: Sequence[str], convention: str) -> Iterator[ArchiveInput]:
    """Yield the X-rays of all sources, each once.

    Args:
        sources: folders (to any depth, hidden files left out), files, patterns such as
            `xrays/**/*.dcm`, and tables (`.csv`, `.parquet`) with a column `input`, and optional
            columns `boxes` or `x0`, `y0`, `x1`, `y1`, and `convention`. Paths in a table are
            relative to its folder.
        convention: default for X-rays without one.

    Raises:
        ArchiveError: a source is not there, or a table lacks its column.
    """
    met: set[str] = set()
    for source in sources:
        for one in _inputs_of(source, convention):
            if one.input_id not in met:
                met.add(one.input_id)
                yield one


def _inputs_of(source: str, convention: str) -> Iterator[ArchiveInput]:
    location = location_of(source)
    try:
        kind = location.files.get_file_info(location.path).type
        if kind is fs.FileType.File and source.lower().endswith(_TABLES):
            yield from _of_table(location, convention)
        elif kind is fs.FileType.File:
            yield ArchiveInput(location.address, "", convention)
        elif kind is fs.FileType.Directory:
            yield from _named(location, location.files_below(), convention)
        elif _GLOB_LETTERS & set(location.path):
            yield from _named(location, _matching(location), convention)
        else:
            raise ArchiveError(f"{source} is not there.")
    except (OSError, pyarrow.ArrowException) as error:
        raise ArchiveError(f"{source} cannot be read: {' '.join(str(error).split())}.") from None


def _named(location: Location, paths: Iterable[str], convention: str) -> Iterator[ArchiveInput]:
    yield from (ArchiveInput(location.at(path).address, "", convention) for path in paths)


def _matching(location: Location) -> Iterator[str]:
    """Yield the files that match a pattern; `**` stands for folders of any depth."""
    fixed = re.split(r"[*?\[]", location.path, maxsplit=1)[0]
    pattern = re.compile(_pattern(location.path))
    folder = location.at(posixpath.dirname(fixed))
    yield from (path for path in folder.files_below() if pattern.fullmatch(path))


def _pattern(path: str) -> str:
    return "".join(_token_pattern(token) for token in _GLOB_TOKENS.findall(path))


def _token_pattern(token: str) -> str:
    if token in _GLOB_MEANINGS:
        return _GLOB_MEANINGS[token]
    if token[0] == "[" and len(token) > 1:
        letters = re.sub(r"[\\\[^&~|]", r"\\\g<0>", token[1:-1].removeprefix("!"))
        return f"[{'^' if token[1] == '!' else ''}{letters}]"
    return re.escape(token)


def _of_table(location: Location, convention: str) -> Iterator[ArchiveInput]:
    data = io.BytesIO(location.read(MOST_TABLE_BYTES))
    if location.path.lower().endswith(".csv"):
        options = csv.ConvertOptions(column_types=_as_text(data), strings_can_be_null=True)
        table = csv.read_csv(data, convert_options=options)
    else:
        table = parquet.read_table(data)
    columns = set(table.column_names)
    name = next((one for one in NAME_COLUMNS if one in columns), None)
    if name is None:
        raise ArchiveError(f"{location.address} has no column {' or '.join(NAME_COLUMNS)}.")
    folder = location.at(posixpath.dirname(location.path))
    for batch in table.to_batches(max_chunksize=10_000):
        for row in batch.to_pylist():
            yield _of_row(row, name, folder, convention)


def _as_text(data: io.BytesIO) -> dict[str, pyarrow.DataType]:
    """Read every column as text, so that a file named 007 keeps its zeros."""
    names = csv.open_csv(data).schema.names
    data.seek(0)
    return dict.fromkeys(names, pyarrow.string())


def _of_row(row: Mapping[str, Any], name: str, folder: Location, convention: str) -> ArchiveInput:
    address = str(row[name] or "")
    if "://" not in address and not address.startswith("/"):
        address = folder.below(address).address
    input_ = str(row.get("convention") or convention)
    return ArchiveInput(address, _boxes_of(row), input_)


def _boxes_of(row: Mapping[str, Any]) -> str:
    for name in BOX_COLUMNS:
        if row.get(name) not in (None, ""):
            return _as_boxes(row[name])
    corners = [row.get(name) for name in CORNER_COLUMNS]
    if all(corner in (None, "") for corner in corners):
        return ""
    return ",".join("" if corner is None else str(corner) for corner in corners)


def _as_boxes(value: Any) -> str:
    """Return boxes as text, from text or from a list of numbers or of boxes."""
    if isinstance(value, str):
        return value.strip()
    boxes = value if value and isinstance(value[0], Sequence) else [value]
    return ";".join(",".join(f"{number:g}" for number in box) for box in boxes)
