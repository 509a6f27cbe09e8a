"""The reply to a task, validated before the front uses any of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from service.workers.framing import Frame, FrameError
from service.workers.shared_memory import Blob, BlobError


@dataclass(frozen=True)
class Reply:
    """The answer of a task; a context manager that closes its blobs.

    Attributes:
        fields: JSON of the function, not trusted, because its process read hostile bytes.
        body: its raw bytes.
        blobs: its shared memory; the caller closes it.
        cpu_s: CPU time, seconds, by the worker's own account.
        wall_s: wall time, seconds, by the worker's own account.
    """

    fields: Mapping[str, Any]
    body: bytes
    blobs: tuple[Blob, ...]
    cpu_s: float
    wall_s: float

    def close(self) -> None:
        """Close the blobs."""
        for blob in self.blobs:
            blob.close()

    def __enter__(self) -> Reply:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the blobs."""
        self.close()


def reply_of(frame: Frame, most_blob_bytes: int) -> Reply:
    """Return the validated reply in a frame.

    Raises:
        FrameError: it is not a valid reply; its descriptors are closed.
    """
    blobs: list[Blob] = []
    descriptors = list(frame.descriptors)
    try:
        fields, sizes = frame.fields.get("fields"), frame.fields.get("blob_bytes")
        if not isinstance(fields, dict) or not isinstance(sizes, list):
            raise FrameError("the answer has no fields")
        while descriptors:
            blobs.append(Blob.received(descriptors.pop(0), most_blob_bytes))
        if [blob.size_bytes for blob in blobs] != sizes:
            raise FrameError("the shared memory has another size than the answer says")
        times = seconds_in(frame, "cpu_used_s"), seconds_in(frame, "wall_s")
        return Reply(fields, frame.body, tuple(blobs), *times)
    except (FrameError, BlobError) as error:
        for blob in blobs:
            blob.close()
        Frame(frame.kind, descriptors=tuple(descriptors)).close()
        raise FrameError(str(error)) from None


def seconds_in(frame: Frame, name: str) -> float:
    """Return a duration that a worker states.

    Raises:
        FrameError: it is not a duration.
    """
    value = frame.fields.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise FrameError(f"{name} is no number")
    if not (math.isfinite(value) and 0 <= value < 1e6):
        raise FrameError(f"{name} is no duration")
    return float(value)
