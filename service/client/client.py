"""Sends X-rays to one service, and sends them again when the service says that this makes sense.

That is after 429 and 503, `Retry-After` seconds later, and after connections that broke before an
answer came. Segmenting changes nothing on the server, so sending twice is harmless.
"""

from __future__ import annotations

import random
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Literal

import httpx

from .answers import Box, Segmentation, SegmentError, read_file, read_segmentation
from .proxies import proxy_for

RETRIED_STATUSES = (429, 503)
LONGEST_PAUSE_S = 30.0


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
        """Make a client; nothing is sent yet.

        Args:
            base_url: where the service is.
            api_key: sent with each request where the operator asks for keys.
            timeout_s: seconds for one attempt.
            patience_s: seconds after which no further attempt is made.
            trusted: certificates to trust over HTTPS, for a service whose certificate the hospital
                signed itself: `ssl.create_default_context(cafile="ca.pem")`. Default: those that
                this machine trusts.
            transport: of httpx; for tests.
            sleep: waits; for tests.
        """
        headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self._http = httpx.Client(
            base_url=base_url,
            headers=headers,
            timeout=timeout_s,
            verify=ssl.create_default_context() if trusted is None else trusted,
            trust_env=False,
            proxy=proxy_for(base_url),
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
        overlay: bool | Literal["jpeg"] = False,
        fields: Mapping[str, str] | None = None,
        model: str | None = None,
    ) -> Segmentation:
        """Segment one X-ray.

        Args:
            image: bytes of a PNG, JPEG, TIFF or DICOM file.
            boxes: boxes in pixels; none means the whole image.
            convention: `lung_field` or `whole_lung`.
            threshold: probability from which a pixel is lung, between 0 and 1.
            overlay: whether to get the X-ray with its masks as a picture, too: True for a PNG,
                "jpeg" for a smaller and quicker JPEG.
            fields: further form fields, by the names of `docs/http.md`.
            model: which of several served models answers, `name/version` or a name; None for the
                service's first.

        Raises:
            SegmentError: the service refused, or was too busy for longer than `patience_s`.
        """
        form = _form(boxes, convention, threshold, fields, model)
        form["overlay"] = overlay if isinstance(overlay, str) else str(overlay).lower()
        return read_segmentation(self._send(image, form, "application/json"))

    def segment_dicom(
        self,
        image: bytes,
        boxes: Sequence[Box] = (),
        *,
        convention: str = "lung_field",
        threshold: float = 0.5,
        fields: Mapping[str, str] | None = None,
        model: str | None = None,
    ) -> bytes:
        """Segment one DICOM X-ray; the arguments are those of `segment`.

        Returns:
            A DICOM Segmentation that refers to the X-ray.

        Raises:
            SegmentError: as `segment`.
        """
        form = _form(boxes, convention, threshold, fields, model)
        return read_file(self._send(image, form, "application/dicom"), "application/dicom")

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Client:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connections."""
        self.close()

    def _send(self, image: bytes, form: Mapping[str, Any], accept: str) -> httpx.Response:
        """Send until an answer comes that another attempt would not change."""
        give_up_at = time.monotonic() + self._patience_s
        pause_s = 0.5
        while True:
            answer = self._attempt(image, form, accept)
            if answer is not None and answer.status_code not in RETRIED_STATUSES:
                return answer
            # A little more than asked, each caller another bit: else all come back together.
            wait_s = max(_announced_s(answer), pause_s) * random.uniform(1.0, 1.25)
            if time.monotonic() + wait_s > give_up_at:
                break
            self._sleep(wait_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        if answer is None:
            raise SegmentError(0, "no_answer", "The service could not be reached.")
        return answer

    def _attempt(self, image: bytes, form: Mapping[str, Any], accept: str) -> httpx.Response | None:
        files = {"image": ("image", image, "application/octet-stream")}
        try:
            return self._http.post("/segment", files=files, data=form, headers={"Accept": accept})
        except httpx.TransportError:
            return None


def _form(
    boxes: Sequence[Box],
    convention: str,
    threshold: float,
    fields: Mapping[str, str] | None,
    model: str | None,
) -> dict[str, Any]:
    return {
        "convention": convention,
        "threshold": _decimal(threshold),
        "bbox": [",".join(map(_decimal, box)) for box in boxes],
        **({} if model is None else {"model": model}),
        **(fields or {}),
    }


def _decimal(value: float) -> str:
    """Return a number in full, without an exponent: nothing is rounded on the way."""
    return f"{Decimal(repr(float(value))):f}"


def _announced_s(answer: httpx.Response | None) -> float:
    text = "" if answer is None else answer.headers.get("retry-after", "")
    return min(float(text), LONGEST_PAUSE_S) if text.isdecimal() else 0.0
