"""API keys from a file that is read again when it changes.

Several keys are valid at once, so that one can be replaced without an interruption. A file without
a usable key admits nobody: in an emergency an operator empties or deletes it. Programs that rewrite
a file may leave it empty for a moment, so it must be empty twice, a second apart. While an existing
file cannot be read, the keys stay valid.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from starlette.requests import Request

from service.errors import ExpiredKey, InsufficientScope, MissingKey, TooManyAttempts, WrongKey
from service.http.callers import caller_with_key
from service.http.key_attempts import FailedAttempts
from service.http.key_file import (
    ApiKey,
    KeyFileContent,
    KeyFileError,
    KeyScope,
    read_key_file,
    require_a_key,
)
from service.request_record import RequestRecord, record_of

logger = logging.getLogger("service.keys")

SECOND_LOOK_S = 1.0
SOON = timedelta(days=14)
DEFAULT_FAILURES_PER_MINUTE = 30
MOST_REASONS_LOGGED = 10
_UNREADABLE, _NO_KEY = "unreadable", "no key"


class ApiKeys:
    """The keys that are valid now; for one thread only."""

    def __init__(
        self,
        path: Path,
        failures_per_minute: int = DEFAULT_FAILURES_PER_MINUTE,
        clock: Callable[[], float] = time.monotonic,
        on_failed: Callable[[], None] = lambda: None,
    ) -> None:
        """Read the file.

        Args:
            path: the file.
            failures_per_minute: most attempts with an invalid key from one address, 0 for any
                number.
            clock: monotonic clock, in seconds.
            on_failed: called for each attempt with an invalid key.

        Raises:
            KeyFileError: it cannot be read or has no key.
        """
        self._path = path
        self._clock = clock
        self._attempts = FailedAttempts(failures_per_minute, clock)
        self._stamp = _stamp(path)
        self._look_again_at: float | None = None
        self._seen_empty = False
        self._trouble: str | None = None
        self._content = KeyFileContent(())
        self._on_failed = on_failed
        self._take(require_a_key(path))

    def admit(self, request: Request, *scopes: KeyScope) -> ApiKey:
        """Accept a request and note the name of its key, or refuse it.

        Args:
            request: request whose headers have the key.
            scopes: the key must have one of them.

        Raises:
            ServiceError: as `require`.
        """
        address = request.client.host if request.client is not None else ""
        key = self.require(request.headers, *scopes, address=address)
        note_key(record_of(request.scope), key.name)
        return key

    def require(self, headers: Mapping[str, str], *scopes: KeyScope, address: str = "") -> ApiKey:
        """Return the valid key of a request, or refuse the request.

        Args:
            headers: request headers, lower-case names; the key comes as `Authorization: Bearer`
                or as `X-API-Key`.
            scopes: the key must have one of them; none for `segment`.
            address: the caller's IP address.

        Raises:
            MissingKey: the request has no key.
            WrongKey: the key is not valid.
            ExpiredKey: the key has expired.
            InsufficientScope: the key has other scopes.
            TooManyAttempts: this address has tried too many invalid keys.
        """
        text = _key_of(headers)
        if not text:
            raise MissingKey("Send an API key as `Authorization: Bearer KEY` or `X-API-Key: KEY`.")
        self.refresh()
        given = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
        wait_s = self._attempts.wait_s(address, given)
        if wait_s:
            raise TooManyAttempts(
                "Too many invalid keys came from this address.", retry_after_s=wait_s
            )
        # Every hash is compared, each in constant time, so the time reveals nothing about the keys.
        found = [one for one in self._content.keys if hmac.compare_digest(given, one.sha256)]
        if not found:
            self._on_failed()
            self._attempts.note_failed(address)
            logger.warning("key refused", extra={"fields": {"address": address}})
            raise WrongKey("This API key is not valid here.")
        self._attempts.note_proven(address, given)
        return _usable(found, scopes or (KeyScope.SEGMENT,))

    def refresh(self) -> None:
        """Read a changed file, and check again a file without a key."""
        stamp, now = _stamp(self._path), self._clock()
        is_due = self._look_again_at is not None and now >= self._look_again_at
        if stamp == self._stamp and not is_due:
            return
        self._stamp = stamp
        try:
            content = read_key_file(self._path)
        except FileNotFoundError:
            content = KeyFileContent(())
        except KeyFileError as error:
            self._look_again_at, self._trouble = now + SECOND_LOOK_S, _UNREADABLE
            self._seen_empty = False
            logger.error("key file not used", extra={"fields": {"reason": str(error)}})
            return
        if content.keys or (is_due and self._seen_empty):
            self._take(content)
        elif not self._seen_empty:
            self._look_again_at, self._seen_empty = now + SECOND_LOOK_S, True

    @property
    def valid_keys(self) -> int:
        """Number of keys that are valid now."""
        self.refresh()
        return sum(not key.has_expired(_now()) for key in self._content.keys)

    @property
    def keys_expiring_soon(self) -> int:
        """Number of valid keys that expire within `SOON`."""
        self.refresh()
        now = _now()
        return sum(
            not key.has_expired(now) and key.has_expired(now + SOON) for key in self._content.keys
        )

    @property
    def file_problems(self) -> int:
        """Number of ignored lines, plus one if the file has no key or cannot be read."""
        self.refresh()
        return len(self._content.problems) + (self._trouble is not None)

    def _take(self, content: KeyFileContent) -> None:
        self._content, self._look_again_at, self._seen_empty = content, None, False
        self._trouble = None if content.keys else _NO_KEY
        if content.problems:
            reasons = list(content.problems[:MOST_REASONS_LOGGED])
            logger.error("line of key file ignored", extra={"fields": {"reasons": reasons}})
        fields = {"keys": len(content.keys), "ignored": len(content.problems)}
        if content.keys:
            logger.info("key file read", extra={"fields": fields})
        else:
            logger.error("key file admits nobody", extra={"fields": fields})


def note_key(record: RequestRecord, name: str) -> None:
    """Note the name of a request's key, which also identifies its caller for turns."""
    record.key_name, record.caller = name, caller_with_key(name)


def _usable(found: list[ApiKey], scopes: tuple[KeyScope, ...]) -> ApiKey:
    """Return the line that admits the request, if the same key is in several lines."""
    valid = [key for key in found if not key.has_expired(_now())]
    if not valid:
        raise ExpiredKey("This API key has expired; ask the operator for a new one.")
    for key in valid:
        if not key.scopes.isdisjoint(scopes):
            return key
    wanted = " or ".join(scope.value for scope in scopes)
    raise InsufficientScope(f"This API key lacks the scope {wanted}, which this address needs.")


def _now() -> datetime:
    return datetime.now(UTC)


def _key_of(headers: Mapping[str, str]) -> str:
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and key.strip():
        return key.strip()
    return headers.get("x-api-key", "").strip()


def _stamp(path: Path) -> tuple[int, int, int]:
    """Return numbers that change when a file is written or replaced; zeros if it is gone."""
    try:
        status = path.stat()
    except OSError:
        return (0, 0, 0)
    return (status.st_mtime_ns, status.st_size, status.st_ino)
