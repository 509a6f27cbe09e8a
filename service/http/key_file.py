"""The file of API keys: a line for each, with the key's hash, name, scopes and expiry.

    <SHA-256 of the key> name=ct-room scopes=segment,metrics expires=2027-03-31

Everything but the hash is optional. Only hashes are stored; plain SHA-256 is enough because a key
is a long random string, not a password. Empty lines and lines that start with `#` are skipped.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from enum import Enum
from pathlib import Path

LONGEST_FILE_BYTES = 1024 * 1024
_HASH = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_END_OF_DAY = time(23, 59, 59, 999_999, tzinfo=UTC)


class KeyScope(Enum):
    """The scopes of a key."""

    SEGMENT = "segment"
    METRICS = "metrics"
    ADMIN = "admin"


SCOPES_OF_A_BARE_KEY = frozenset({KeyScope.SEGMENT, KeyScope.METRICS})
"""Scopes of a line that names none: everything that keys could do before there were scopes."""


class KeyFileError(ValueError):
    """The file of keys cannot be read, or has no key; the message is a sentence."""


@dataclass(frozen=True)
class ApiKey:
    """One key.

    Attributes:
        sha256: hash of the key, 64 lower-case hexadecimal digits.
        name: name of its user, for logs.
        expires_at: time of expiry; None for never.
    """

    sha256: str
    name: str
    scopes: frozenset[KeyScope]
    expires_at: datetime | None = None

    def has_expired(self, now: datetime) -> bool:
        """Return whether the key has expired."""
        return self.expires_at is not None and now >= self.expires_at


@dataclass(frozen=True)
class KeyFileContent:
    """The content of a file of keys.

    Attributes:
        keys: the usable lines.
        problems: a sentence for each line that is ignored.
    """

    keys: tuple[ApiKey, ...]
    problems: tuple[str, ...] = ()


def read_key_file(path: Path) -> KeyFileContent:
    """Read a file of keys; unusable lines are ignored and reported.

    Raises:
        FileNotFoundError: there is no such file.
        KeyFileError: it cannot be read or is too large.
    """
    try:
        if path.stat().st_size > LONGEST_FILE_BYTES:
            raise KeyFileError(f"The file of API keys has more than {LONGEST_FILE_BYTES} bytes.")
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise KeyFileError(
            f"The file of API keys cannot be read ({type(error).__name__})."
        ) from None
    keys: list[ApiKey] = []
    problems: list[str] = []
    for number, line in enumerate(lines, start=1):
        text = line.decode("ascii", "replace").strip()
        if not text or text.startswith("#"):
            continue
        try:
            keys.append(_read_line(text))
        except ValueError as error:
            problems.append(f"Line {number} of the file of API keys {error}.")
    return KeyFileContent(tuple(keys), tuple(problems))


def require_a_key(path: Path) -> KeyFileContent:
    """Read a file of keys at the start, when a file without a usable key is an error.

    Raises:
        KeyFileError: it cannot be read, or holds no key.
    """
    try:
        content = read_key_file(path)
    except FileNotFoundError:
        raise KeyFileError("The file of API keys does not exist.") from None
    if not content.keys:
        raise KeyFileError(" ".join(["The file of API keys holds no key.", *content.problems[:1]]))
    return content


def _read_line(text: str) -> ApiKey:
    """Read one line; errors never quote it, because it may contain a key by mistake."""
    sha256, *words = text.split()
    if not _HASH.fullmatch(sha256):
        raise ValueError("does not begin with a SHA-256 in 64 lower-case hexadecimal digits")
    options: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if name not in ("name", "scopes", "expires") or not equals or name in options:
            raise ValueError(
                "may have name=, scopes= and expires= after the hash, each once, and nothing else"
            )
        options[name] = value
    name = options.get("name", f"key-{sha256[:8]}")
    if not _NAME.fullmatch(name):
        raise ValueError("has a name that is not 1 to 64 letters, digits or ._-")
    scopes = _scopes(options["scopes"]) if "scopes" in options else SCOPES_OF_A_BARE_KEY
    expires_at = _expiry(options["expires"]) if "expires" in options else None
    return ApiKey(sha256, name, scopes, expires_at)


def _scopes(text: str) -> frozenset[KeyScope]:
    known = {scope.value: scope for scope in KeyScope}
    names = text.split(",")
    if not set(names) <= set(known):
        raise ValueError(f"has scopes other than {', '.join(known)}")
    return frozenset(known[name] for name in names)


def _expiry(text: str) -> datetime:
    """Read an expiry: the end of a day (UTC), or a moment."""
    try:
        if len(text) == len("2027-03-31"):
            return datetime.combine(date.fromisoformat(text), _END_OF_DAY)
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            "expires at no date such as 2027-03-31 and no time such as 2027-03-31T18:00:00Z"
        ) from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
