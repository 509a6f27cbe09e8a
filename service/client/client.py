"""Send X-rays to one service, and retry where the service says that a retry makes sense.

It retries 429 and 503 after `Retry-After` seconds, and connections that broke before an answer.
Segmenting changes nothing on the server, so sending twice is harmless.
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
    """A client of one service; use it as a context manager, from one thread or several."""

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
            base_url: address of the service.
            api_key: key sent with each request, if the operator requires one.
            timeout_s: most seconds for one attempt.
            patience_s: seconds after which no further attempt is made.
            trusted: certificates to trust over HTTPS, for a service whose certificate the hospital
                signed itself: `ssl.create_default_context(cafile="ca.pem")`. Default: the
                machine's.
            transport: transport of httpx, for tests.
            sleep: function that waits, for tests.
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
            threshold: least probability of a lung pixel, between 0 and 1.
            overlay: whether to get a picture of the X-ray with its masks: True for a PNG, "jpeg"
                for a smaller and faster JPEG.
            fields: further form fields, by the names of `docs/http.md`.
            model: the served model to use, `name/version` or a name; None for the service's first.

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
        """Send until the answer needs no further attempt."""
        give_up_at = time.monotonic() + self._patience_s
        pause_s = 0.5
        while True:
            answer = self._attempt(image, form, accept)
            if answer is not None and answer.status_code not in RETRIED_STATUSES:
                return answer
            # A random bit longer than announced, so that callers do not all return together.
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
    """Return all digits of a number, without an exponent and without rounding."""
    return f"{Decimal(repr(float(value))):f}"


def _announced_s(answer: httpx.Response | None) -> float:
    text = "" if answer is None else answer.headers.get("retry-after", "")
    return min(float(text), LONGEST_PAUSE_S) if text.isdecimal() else 0.0
