"""API keys from a file: only their hashes are kept, and a changed file is read again.

A line holds the SHA-256 of a key in hexadecimal; empty lines and lines that start with `#` are
skipped. Several keys are valid at once, so that one can be replaced without an interruption. Plain
SHA-256 is enough because a key is a long random string, not a password.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
from collections.abc import Mapping
from pathlib import Path

from service.errors import MissingKey, WrongKey

logger = logging.getLogger("service.keys")

_HASH = re.compile(r"[0-9a-f]{64}")
LONGEST_FILE_BYTES = 1024 * 1024


class KeyFileError(ValueError):
    """The file of keys cannot be used; the message is a sentence that names the line."""


class ApiKeys:
    """The keys that are valid now."""

    def __init__(self, path: Path) -> None:
        """Reads the file.

        Raises:
            KeyFileError: it cannot be read, holds no key, or a line is not a hash.
        """
        self._path = path
        self._stamp = _stamp(path)
        self._hashes = read_hashes(path)

    def require(self, headers: Mapping[str, str]) -> None:
        """Lets a request pass, or refuses it.

        Args:
            headers: request headers, lower-case names; the key comes as `Authorization: Bearer`
                or as `X-API-Key`.

        Raises:
            MissingKey: there is none.
            WrongKey: it is not valid.
        """
        key = _key_of(headers)
        if not key:
            raise MissingKey("Send an API key as `Authorization: Bearer KEY` or `X-API-Key: KEY`.")
        self._read_again_if_changed()
        given = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
        # Every hash is compared, each in constant time: the time tells nothing about the keys.
        if not any([hmac.compare_digest(given, known) for known in self._hashes]):
            raise WrongKey("This API key is not valid here.")

    def _read_again_if_changed(self) -> None:
        """Takes over a changed file; one that cannot be used leaves the keys as they were."""
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._hashes = read_hashes(self._path)
        except KeyFileError as error:
            logger.error("key file not used", extra={"fields": {"reason": str(error)}})
            return
        logger.info("key file read", extra={"fields": {"keys": len(self._hashes)}})


def read_hashes(path: Path) -> tuple[str, ...]:
    """Reads the hashes in a file of keys.

    Raises:
        KeyFileError: it cannot be read, holds no key, or a line is not a hash.
    """
    try:
        if path.stat().st_size > LONGEST_FILE_BYTES:
            raise KeyFileError(f"The file of API keys has more than {LONGEST_FILE_BYTES} bytes.")
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise KeyFileError(
            f"The file of API keys cannot be read ({type(error).__name__})."
        ) from None
    hashes = []
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        if not _HASH.fullmatch(text):
            raise KeyFileError(
                f"Line {number} of the file of API keys is not a SHA-256 in 64 small hexadecimal "
                "digits."
            )
        hashes.append(text)
    if not hashes:
        raise KeyFileError("The file of API keys holds no key.")
    return tuple(hashes)


def _key_of(headers: Mapping[str, str]) -> str:
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and key.strip():
        return key.strip()
    return headers.get("x-api-key", "").strip()


def _stamp(path: Path) -> tuple[int, int, int]:
    """What changes when a file is written or replaced; zeros when it is gone."""
    try:
        status = path.stat()
    except OSError:
        return (0, 0, 0)
    return (status.st_mtime_ns, status.st_size, status.st_ino)
