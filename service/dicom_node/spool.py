"""X-rays and results on disk, so that a power failure neither loses nor doubles anything.

A job is a folder that appears, changes and disappears by one rename each:

    incoming/           objects in transfer; discarded at a restart
    jobs/KEY/xray.dcm   received: it was on disk before the sender got a success
    jobs/KEY/answer/    the service's whole answer, with `answer.json`
    jobs/KEY/sent/      an empty file for each object that a destination has confirmed
    dead/KEY/           given up, with `reason.txt`
    delivered/KEY/      finished, kept for a time if configured
    trash/              finished, being deleted

KEY is a digest of the file. So an X-ray that is sent again while it waits is one job, and no name
on disk identifies a patient.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_CHUNK_BYTES = 1024 * 1024
_KEY_LENGTH = 32
_STALE_AFTER_S = 3600.0


class SpoolFull(Exception):  # noqa: N818 - names what happened, like the errors of the service
    """The spool has no room for another object."""


class SpoolInUse(Exception):  # noqa: N818
    """Another process uses the folder."""


@dataclass(frozen=True)
class Answer:
    """The service's answer for an X-ray.

    Attributes:
        files: file of each kind of object.
        warnings: codes of the warnings.
        is_refused: whether one of them says that the masks are not to be used.
    """

    files: Mapping[str, Path]
    warnings: tuple[str, ...]
    is_refused: bool


class Job:
    """One X-ray in the spool."""

    def __init__(self, folder: Path) -> None:
        """Keep the path; nothing is read."""
        self.key = folder.name
        self.folder = folder

    @property
    def xray(self) -> Path:
        """The file of the X-ray."""
        return self.folder / "xray.dcm"

    @property
    def received_at(self) -> float:
        """Seconds since the epoch at which it was received."""
        return self.xray.stat().st_mtime

    def answer(self) -> Answer | None:
        """Return the service's answer, None before there is one."""
        folder = self.folder / "answer"
        if not folder.exists():
            return None
        stored = json.loads((folder / "answer.json").read_text("utf-8"))
        files = {kind: folder / f"{kind}.dcm" for kind in stored["objects"]}
        return Answer(files, tuple(stored["warnings"]), stored["is_refused"])

    def keep_answer(
        self, objects: Mapping[str, bytes], warnings: Sequence[str], *, is_refused: bool
    ) -> None:
        """Write an answer, whole or not at all.

        Args:
            objects: the files by kind, in the order to send them.
            warnings: codes of the warnings.
            is_refused: whether a warning forbids the use of the masks.
        """
        unfinished = self.folder / "answer.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        for kind, data in objects.items():
            _write(unfinished / f"{kind}.dcm", data)
        stored = {
            "objects": list(objects),
            "warnings": list(warnings),
            "is_refused": is_refused,
        }
        _write(unfinished / "answer.json", json.dumps(stored).encode())
        _sync_folder(unfinished)
        os.rename(unfinished, self.folder / "answer")
        _sync_folder(self.folder)

    def is_sent(self, destination: str, kind: str) -> bool:
        """Return whether a destination has confirmed an object."""
        return (self.folder / "sent" / f"{destination}.{kind}").exists()

    def note_sent(self, destination: str, kind: str) -> None:
        """Record that a destination has confirmed an object."""
        folder = self.folder / "sent"
        folder.mkdir(exist_ok=True)
        _write(folder / f"{destination}.{kind}", b"")
        _sync_folder(folder)
        _sync_folder(self.folder)


class Spool:
    """The folder of one node. Only one process uses it; its threads share this object.

    Attributes:
        incoming: folder of objects in transfer.
    """

    def __init__(self, folder: Path, max_bytes: int, min_free_bytes: int) -> None:
        """Create the folders and delete unfinished files of a killed process.

        Raises:
            OSError: the folder cannot be made or written.
            SpoolInUse: another process uses it.
        """
        self.incoming = folder / "incoming"
        self._jobs, self._dead, self._trash = folder / "jobs", folder / "dead", folder / "trash"
        self._delivered = folder / "delivered"
        self._max_bytes, self._min_free_bytes = max_bytes, min_free_bytes
        self._lock = threading.Lock()
        for made in (self._jobs, self._dead, self._delivered):
            made.mkdir(parents=True, exist_ok=True)
        self._lock_file = (folder / "lock").open("w")
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SpoolInUse(f"{folder} is used by another node.") from None
        for worthless in (self.incoming, self._trash):
            shutil.rmtree(worthless, ignore_errors=True)
            worthless.mkdir()
        for unfinished in self._jobs.glob("*.new"):
            shutil.rmtree(unfinished)

    def jobs(self) -> list[Job]:
        """Return all jobs, the oldest first."""
        dated = []
        for folder in self._jobs.iterdir():
            if len(folder.name) == _KEY_LENGTH:
                with contextlib.suppress(FileNotFoundError):  # finished meanwhile
                    dated.append((Job(folder).received_at, folder))
        return [Job(folder) for _, folder in sorted(dated)]

    def require_room(self, size_bytes: int) -> None:
        """Refuse an object if there is no room for it.

        Args:
            size_bytes: bytes that the object needs.

        Raises:
            SpoolFull: the spool or its disk is full.
        """
        used = sum(_file_sizes(self._jobs))
        if used + size_bytes > self._max_bytes:
            raise SpoolFull
        if shutil.disk_usage(self._jobs).free - size_bytes < self._min_free_bytes:
            self.forget_delivered(0.0)  # delivered X-rays make room for waiting ones
            if shutil.disk_usage(self._jobs).free - size_bytes < self._min_free_bytes:
                raise SpoolFull

    def keep(self, received: Path) -> Job:
        """Make a received file a job; the job is on disk when this returns.

        Args:
            received: a file in `incoming`, closed; it is moved.

        Returns:
            The job; the existing one if the same file already waits.
        """
        _sync_file(received)
        key = _digest(received)
        with self._lock:
            folder = self._jobs / key
            if folder.exists():
                received.unlink()
                return Job(folder)
            unfinished = self._jobs / f"{key}.new"
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            os.rename(received, unfinished / "xray.dcm")
            _sync_folder(unfinished)
            os.rename(unfinished, folder)
            _sync_folder(self._jobs)
        return Job(folder)

    def finish(self, job: Job, *, is_kept: bool = False) -> None:
        """Remove a job from the queue after every destination has its results.

        Args:
            job: job to move.
            is_kept: whether to move it to `delivered`; otherwise it is deleted.
        """
        if is_kept:
            self._discard(self._delivered / job.key)  # it was received before
            os.utime(job.folder)
            os.rename(job.folder, self._delivered / job.key)
            _sync_folder(self._delivered)
            _sync_folder(self._jobs)
        else:
            self._discard(job.folder)

    def forget_delivered(self, kept_s: float) -> None:
        """Delete X-rays that were delivered longer ago.

        Args:
            kept_s: seconds since the delivery.
        """
        for folder in self._delivered.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if time.time() - folder.stat().st_mtime >= kept_s:
                    self._discard(folder)

    def _discard(self, folder: Path) -> None:
        """Delete a folder, if it exists; it disappears at once, by a rename."""
        resting = self._trash / f"{folder.name}.{time.time_ns()}"
        try:
            os.rename(folder, resting)
        except FileNotFoundError:
            return
        _sync_folder(folder.parent)
        shutil.rmtree(resting, ignore_errors=True)

    def bury(self, job: Job, reason: str) -> None:
        """Move a job to the dead letters, with the reason.

        Args:
            job: job to move.
            reason: one sentence without patient data.
        """
        _write(job.folder / "reason.txt", (reason + "\n").encode())
        grave = self._dead / job.key
        if grave.exists():  # it was a dead letter before, and was sent again
            shutil.rmtree(grave)
        os.rename(job.folder, grave)
        _sync_folder(self._dead)
        _sync_folder(self._jobs)

    def close(self) -> None:
        """Release the folder for other processes."""
        self._lock_file.close()

    def dead_count(self) -> int:
        """Return the number of dead letters."""
        return sum(1 for _ in self._dead.iterdir())

    def clear_stale(self) -> None:
        """Delete files that broken associations left behind."""
        for path in self.incoming.iterdir():
            try:
                if time.time() - path.stat().st_mtime > _STALE_AFTER_S:
                    path.unlink()
            except FileNotFoundError:  # it has become a job meanwhile
                continue


def _file_sizes(folder: Path) -> Iterator[int]:
    """Yield the size of each file, without those that other threads move or delete meanwhile."""
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                if entry.is_dir(follow_symlinks=False):
                    yield from _file_sizes(Path(entry.path))
                else:
                    yield entry.stat(follow_symlinks=False).st_size
            except FileNotFoundError:
                continue


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()[:_KEY_LENGTH]


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    """Sync the names in a folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
