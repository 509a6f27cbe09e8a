"""A thin client of the service for Python programs: `pip install 'adalora-qat[client]'`.

It sends one X-ray, and sends it again when the service says that this makes sense: 429 and 503
with `Retry-After`, and connections that broke before an answer came. Segmenting changes nothing
on the server, so sending twice is harmless.
"""

from __future__ import annotations

import base64
import random
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import httpx

RETRIED_STATUSES = (429, 503)
LONGEST_PAUSE_S = 30.0

Box = tuple[float, float, float, float]


class SegmentError(Exception):
    """The service refused, or did not answer in the time allowed.

    Attributes:
        status: HTTP status, 0 when no answer came.
        code: the service's stable code, `no_answer` when none came.
        request_id: what its operator needs to find the request, or "".
    """

    def __init__(self, status: int, code: str, sentence: str, request_id: str = "") -> None:
        """Takes over what the service said."""
        super().__init__(sentence)
        self.status = status
        self.code = code
        self.request_id = request_id


@dataclass(frozen=True)
class SegmentedMask:
    """One mask.

    Attributes:
        box: the box that was asked, in pixels.
        score: predicted IoU with the truth, 0 to 1.
        area_px: pixels of the mask.
        png: the mask as 8-bit PNG, 0 or 255, of the image's size.
    """

    box: Box
    score: float
    area_px: int
    png: bytes = field(repr=False)


@dataclass(frozen=True)
class Segmentation:
    """The answer to one request.

    Attributes:
        request_id: its id in the service's log.
        masks: one per box, in the order of the boxes.
        warning_codes: reasons to look twice.
        body: the whole JSON answer.
    """

    request_id: str
    masks: tuple[SegmentedMask, ...]
    warning_codes: tuple[str, ...]
    body: dict[str, Any] = field(repr=False)


class Client:
    """Asks one service; use it as a context manager, from one thread or several."""

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:8000",
        *,
        api_key: str | None = None,
        timeout_s: float = 60.0,
        patience_s: float = 120.0,
        trusted: ssl.SSLContext | None = None,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Makes a client; nothing is sent yet.

        Args:
            base_url: where the service is.
            api_key: sent with each request where the operator asks for keys.
            timeout_s: seconds for one attempt.
            patience_s: seconds after which no further attempt is made.
            trusted: certificates to trust over HTTPS, for a service whose certificate the hospital
                signed itself: `ssl.create_default_context(cafile="ca.pem")`.
            transport: of httpx; for tests.
            sleep: waits; for tests.
        """
        headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self._http = httpx.Client(
            base_url=base_url,
            headers=headers,
            timeout=timeout_s,
            verify=True if trusted is None else trusted,
            transport=transport,
        )
        self._patience_s = patience_s
        self._sleep = sleep

    def segment(
        self,
        image: bytes,
        boxes: Sequence[Box] = (),
        *,
        convention: str = "lung_field",
        threshold: float = 0.5,
    ) -> Segmentation:
        """Segments one X-ray.

        Args:
            image: bytes of a PNG, JPEG, TIFF or DICOM file.
            boxes: boxes in pixels; none means the whole image.
            convention: `lung_field` or `whole_lung`.
            threshold: probability from which a pixel is lung, between 0 and 1.

        Raises:
            SegmentError: the service refused, or was too busy for longer than `patience_s`.
        """
        fields: dict[str, Any] = {
            "convention": convention,
            "threshold": f"{threshold:g}",
            "overlay": "false",
            "bbox": [",".join(f"{value:.6f}" for value in box) for box in boxes],
        }
        give_up_at = time.monotonic() + self._patience_s
        pause_s = 0.5
        while True:
            answer = self._attempt(image, fields)
            if answer is not None and answer.status_code not in RETRIED_STATUSES:
                break
            # A little more than asked, each caller another bit: else all come back together.
            wait_s = max(_announced_s(answer), pause_s) * random.uniform(1.0, 1.25)
            if time.monotonic() + wait_s > give_up_at:
                break
            self._sleep(wait_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        if answer is None:
            raise SegmentError(0, "no_answer", "The service could not be reached.")
        return _read(answer)

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def __enter__(self) -> Client:
        """Returns itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Closes the connections."""
        self.close()

    def _attempt(self, image: bytes, fields: dict[str, Any]) -> httpx.Response | None:
        files = {"image": ("image", image, "application/octet-stream")}
        try:
            return self._http.post("/segment", files=files, data=fields)
        except httpx.TransportError:
            return None


def _announced_s(answer: httpx.Response | None) -> float:
    text = "" if answer is None else answer.headers.get("retry-after", "")
    return min(float(text), LONGEST_PAUSE_S) if text.isdecimal() else 0.0


def _read(answer: httpx.Response) -> Segmentation:
    try:
        body = answer.json()
    except ValueError:
        body = {}
    if answer.status_code != 200:
        raise SegmentError(
            answer.status_code,
            body.get("code", "unknown"),
            body.get("detail", f"The service answered {answer.status_code}."),
            body.get("request_id", ""),
        )
    masks = tuple(
        SegmentedMask(
            tuple(one["bbox"]), one["score"], one["area_px"], base64.b64decode(one["png"])
        )
        for one in body["masks"]
    )
    codes = tuple(one["code"] for one in body["warnings"])
    return Segmentation(body["request_id"], masks, codes, body)
