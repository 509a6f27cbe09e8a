"""Lines of an audit log, each sealed by a keyed hash (HMAC-SHA-256) over it and its predecessor.

Without the key nobody can change or remove a line unnoticed, even with write access to the file. A
hash chain without a key could be computed again. The head reveals lines cut off at the end. It is
the seal of the latest line, which the service also writes to its log and its metrics.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

START_OF_CHAIN = "0" * 64
LEAST_KEY_BYTES = 16
BEGUN, CONTINUED, TORN = "begun", "continued", "torn line"
"""Events of the log itself: a new chain, a new file of a chain, a line torn by a crash."""
_SEAL = re.compile(rb',"seal":"([0-9a-f]{64})"\}')
_SEAL_BYTES = len(',"seal":""}') + 64


class AuditError(ValueError):
    """The audit log or its key cannot be used; the message is a sentence."""


class BrokenChainError(AuditError):
    """A line was changed or is missing; the message names file and line."""


@dataclass(frozen=True)
class ChainState:
    """The state of a chain.

    Attributes:
        entries: number of lines so far, over all files.
        seal: seal of the latest line.
    """

    entries: int = 0
    seal: str = START_OF_CHAIN


@dataclass(frozen=True)
class Verified:
    """The result of a verification.

    Attributes:
        first_entry: number of the first line; 0 unless older files are kept elsewhere.
        state: state of the chain at its end.
        seals: seals of all lines, in order.
        torn_lines: number of lines torn by a crash.
    """

    first_entry: int
    state: ChainState
    seals: tuple[str, ...]
    torn_lines: int


def read_key(path: Path) -> bytes:
    """Read the key of an audit log.

    Raises:
        AuditError: it cannot be read, or is too short to be secret.
    """
    try:
        key = path.read_bytes().strip()
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise AuditError(f"The audit key {path} cannot be read: {reason}.") from None
    if len(key) < LEAST_KEY_BYTES:
        raise AuditError(f"The audit key {path} has fewer than {LEAST_KEY_BYTES} bytes.")
    return key


def sealed_line(
    fields: Mapping[str, Any], state: ChainState, key: bytes
) -> tuple[bytes, ChainState]:
    """Make the next line of a chain.

    Args:
        fields: content of the line.
        state: where the chain stands.
        key: the secret.

    Returns:
        The line with its line feed, and the new state of the chain.
    """
    body = json.dumps({"n": state.entries, **fields}, separators=(",", ":")).encode("ascii")
    seal = _seal(body, state.seal, key)
    line = body[:-1] + b',"seal":"' + seal.encode() + b'"}\n'
    return line, ChainState(state.entries + 1, seal)


def verify_files(paths: Iterable[Path], key: bytes) -> Verified:
    """Verify the files of one log.

    Args:
        paths: the files, in any order.
        key: the secret.

    Raises:
        BrokenChainError: a line is not what was written, or one is missing.
        AuditError: a file cannot be read, or there is none.
    """
    files = sorted((_first_number(path), path) for path in paths)
    if not files:
        raise AuditError("There is no audit log here.")
    verifier = _Verifier(key)
    for _, path in files:
        for number, line in enumerate(_lines_of(path), start=1):
            verifier.take(line, f"{path}, line {number}")
    return verifier.finish()


class _Verifier:
    """Verifies the lines of a log one after another."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._state = ChainState()
        self._first: int | None = None
        self._seals: list[str] = []
        self._torn: tuple[bytes, str] | None = None
        self._torn_lines = 0

    def take(self, line: bytes, place: str) -> None:
        body, seal = _split(line)
        fields = _fields_of(body)
        if fields is None:
            if self._torn is not None:
                raise BrokenChainError(f"{self._torn[1]}: not a line of an audit log.")
            self._torn = line, place
            return
        if self._first is None:
            self._begin(fields, place)
        if self._torn is not None:
            self._excuse(fields)
        if not hmac.compare_digest(_seal(body, self._state.seal, self._key), seal):
            raise BrokenChainError(
                f"{place}: the seal is wrong. The line was changed, one before it is missing, or "
                "the key is another."
            )
        if fields.get("n") != self._state.entries:
            raise BrokenChainError(f"{place}: entry {self._state.entries} is missing.")
        self._state = ChainState(self._state.entries + 1, seal)
        self._seals.append(seal)

    def finish(self) -> Verified:
        if self._torn is not None:
            raise BrokenChainError(f"{self._torn[1]}: not a line of an audit log.")
        if self._first is None:
            raise AuditError("The audit log is empty.")
        return Verified(self._first, self._state, tuple(self._seals), self._torn_lines)

    def _begin(self, fields: Mapping[str, Any], place: str) -> None:
        self._first = fields["n"] if isinstance(fields.get("n"), int) else 0
        if fields.get("event") == CONTINUED:  # earlier lines are stored elsewhere
            self._state = ChainState(self._first, str(fields.get("previous_seal")))
        elif self._first != 0:
            raise BrokenChainError(f"{place}: the entries before {self._first} are missing.")

    def _excuse(self, fields: Mapping[str, Any]) -> None:
        """Accept a line torn by a crash if the next, sealed line describes it."""
        assert self._torn is not None
        torn, place = self._torn
        if fields.get("event") != TORN or fields.get("sha256") != _sha256(torn):
            raise BrokenChainError(f"{place}: not a line of an audit log.")
        self._torn = None
        self._torn_lines += 1


def state_at_end(path: Path, key: bytes) -> tuple[ChainState, bytes]:
    """Read the state of a file's chain from its latest whole line.

    Returns:
        The state, and the bytes of a torn line after it.

    Raises:
        BrokenChainError: the latest line was not sealed with this key.
    """
    lines = _lines_of(path)
    torn = b""
    if lines and _fields_of(_split(lines[-1])[0]) is None:
        torn = lines.pop()
    if not lines:
        return ChainState(), torn
    fields = _fields_of(_split(lines[-1])[0])
    body, seal = _split(lines[-1])
    before = _split(lines[-2])[1] if len(lines) > 1 else _before_first(fields)
    is_ours = fields is not None and hmac.compare_digest(_seal(body, before, key), seal)
    if not is_ours or fields is None or not isinstance(fields.get("n"), int):
        raise BrokenChainError(
            f"The last line of {path} was not written with this key; verify the log with "
            "`python -m service.audit verify`, or begin another."
        )
    return ChainState(fields["n"] + 1, seal), torn


def torn_fields(torn: bytes) -> dict[str, Any]:
    """Return the fields that describe a torn line in the line after it."""
    return {"event": TORN, "sha256": _sha256(torn), "bytes": len(torn)}


def entries_of(path: Path) -> Iterable[dict[str, Any]]:
    """Yield the fields of a file's lines, verified or not."""
    for line in _lines_of(path):
        fields = _fields_of(_split(line)[0])
        if fields is not None:
            yield fields


def _before_first(fields: Mapping[str, Any] | None) -> str:
    if fields is not None and fields.get("event") == CONTINUED:
        return str(fields.get("previous_seal"))
    return START_OF_CHAIN


def _first_number(path: Path) -> int:
    for fields in entries_of(path):
        return fields["n"] if isinstance(fields.get("n"), int) else 0
    return 0


def _lines_of(path: Path) -> list[bytes]:
    try:
        return [line for line in path.read_bytes().split(b"\n") if line]
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise AuditError(f"The audit log {path} cannot be read: {reason}.") from None


def _split(line: bytes) -> tuple[bytes, str]:
    """Split a line into its sealed part and its seal; the seal is empty if absent."""
    found = _SEAL.fullmatch(line[-_SEAL_BYTES:])
    if found is None:
        return line, ""
    return line[:-_SEAL_BYTES] + b"}", found[1].decode()


def _fields_of(body: bytes) -> dict[str, Any] | None:
    try:
        fields = json.loads(body)
    except ValueError:
        return None
    return fields if isinstance(fields, dict) else None


def _seal(body: bytes, previous: str, key: bytes) -> str:
    return hmac.new(key, previous.encode() + b"\n" + body, hashlib.sha256).hexdigest()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
