"""Files and folders by path or address: local, `s3://`, `gs://` and others that Arrow supports."""

from __future__ import annotations

import posixpath
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

from pyarrow import fs

from service.archive.errors import ArchiveError

_OPTIONS = re.compile(r"\?[a-z_]+=[^/]*$")


@dataclass(frozen=True)
class Location:
    """A file or a folder on a file system."""

    files: fs.FileSystem
    path: str
    scheme: str  # beginning of its addresses, such as `s3://`; empty for this machine's paths
    options: str = ""  # end of its addresses, such as `?endpoint_override=HOST:9000&scheme=http`

    @property
    def address(self) -> str:
        """The address of this location, as `location_of` reads it."""
        return f"{self.scheme}{self.path}{self.options}"

    def below(self, name: str) -> Location:
        """Return a location inside this folder."""
        return self.at(posixpath.join(self.path, name))

    def at(self, path: str) -> Location:
        """Return another path of the same file system."""
        return replace(self, path=path)

    def read(self, most_bytes: int) -> bytes:
        """Return the bytes of a file, up to a limit.

        Raises:
            OSError: it is not a file, or cannot be read.
        """
        if self.files.get_file_info(self.path).type is not fs.FileType.File:
            raise FileNotFoundError("There is no such file.")
        with self.files.open_input_stream(self.path) as stream:
            pieces, left = [], most_bytes
            while left > 0 and (piece := stream.read(left)):
                pieces.append(piece)
                left -= len(piece)
        return b"".join(pieces)

    def write(self, data: bytes) -> None:
        """Write a file whole or not at all, even if this process is killed meanwhile.

        Raises:
            OSError: it cannot be written.
        """
        parent = posixpath.dirname(self.path)
        if self.scheme:  # an object appears when its upload is complete
            with self.files.open_output_stream(self.path) as stream:
                stream.write(data)
            return
        self.files.create_dir(parent, recursive=True)
        unfinished = f"{parent}/.{posixpath.basename(self.path)}.{uuid.uuid4().hex}"
        with self.files.open_output_stream(unfinished) as stream:
            stream.write(data)
        self.files.move(unfinished, self.path)

    def exists(self) -> bool:
        """Tell whether a file or folder exists."""
        return bool(self.files.get_file_info(self.path).type is not fs.FileType.NotFound)

    def files_below(self) -> Iterator[str]:
        """Yield the paths of all files of a folder, sorted; hidden ones are left out."""
        selector = fs.FileSelector(self.path, recursive=True, allow_not_found=True)
        found = self.files.get_file_info(selector)
        for one in sorted(found, key=lambda info: str(info.path)):
            inner = str(one.path)[len(self.path) :].split("/")
            if one.type is fs.FileType.File and not any(part[:1] == "." for part in inner):
                yield str(one.path)


def location_of(address: str) -> Location:
    """Return the location that a path or an address names.

    Args:
        address: a path of this machine, or `scheme://…` of a file system that Arrow knows. Names
            may contain any character, spaces included; options begin at `?NAME=`.

    Raises:
        ArchiveError: no known file system has such addresses.
    """
    if "://" not in address:
        return Location(fs.LocalFileSystem(), str(Path(address).absolute()), "")
    scheme = address.split("://", 1)[0] + "://"
    try:
        files, path = fs.FileSystem.from_uri(address if scheme == "file://" else _as_uri(address))
    except (OSError, ValueError, NotImplementedError) as error:
        raise ArchiveError(f"{address} cannot be opened: {_one_line(error)}.") from None
    if scheme == "file://":
        return Location(files, path, "")
    return Location(files, path, scheme, _options_of(address))


def _options_of(address: str) -> str:
    found = _OPTIONS.search(address)
    return "" if found is None else found[0]


def _as_uri(address: str) -> str:
    """Return an address with the special characters of names escaped."""
    options = _options_of(address)
    scheme, _, names = address.removesuffix(options).partition("://")
    return f"{scheme}://{quote(names, safe='/:@')}{options}"


def _one_line(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__).rstrip(".")
