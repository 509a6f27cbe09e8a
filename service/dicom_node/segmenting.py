"""Segmentation of X-rays by services, over HTTP."""

from __future__ import annotations

import logging
import ssl
import threading
import time
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from service.client.proxies import proxy_for
from service.dicom_node.settings import SegmentSettings, ServiceSettings, first_line

logger = logging.getLogger(__name__)

_BUSY_STATUSES = (408, 429, 500, 502, 503, 504)  # another try may well succeed
# Says something about the service or the node's file, and nothing about the X-ray: it waits until
# somebody has put that right.
_UNUSABLE_STATUSES = (401, 403, 404, 405, 407)
_UNUSABLE_CODES = ("unknown_model",)
_DEFAULT_PAUSE_S, _LONGEST_PAUSE_S = 2.0, 60.0


class ServiceBusy(Exception):  # noqa: N818 - names what happened
    """No service can answer now.

    Attributes:
        retry_after_s: seconds after which a service may be free.
    """

    def __init__(self, retry_after_s: float) -> None:
        """Keep the pause."""
        super().__init__("no service can answer now")
        self.retry_after_s = retry_after_s


class XrayRefused(Exception):  # noqa: N818 - names what happened
    """The service will never segment this X-ray."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        """Keep the service's problem, which names no patient."""
        super().__init__(f"the service refused the X-ray ({status} {code}): {detail}")
        self.code = code


@dataclass(frozen=True)
class Segmented:
    """The answer of a service.

    Attributes:
        objects: the files by kind.
        model: name and version of the model that answered.
        warnings: codes of the warnings.
        is_refused: whether one of them forbids the use of the masks.
    """

    objects: Mapping[str, bytes]
    model: str
    warnings: tuple[str, ...]
    is_refused: bool


@dataclass
class _Service:
    url: str
    client: httpx.Client
    open_requests: int = 0
    rests_until: float = 0.0
    failures: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


class Segmenter:
    """Distributes X-rays among services. Thread-safe."""

    def __init__(self, settings: SegmentSettings) -> None:
        """Open the clients, without any request.

        Raises:
            NodeSettingsError: a file with a key cannot be read.
        """
        self._settings = settings
        self._services = [
            _Service(one.url, _client(one, settings.timeout_s)) for one in settings.services
        ]
        self._lock = threading.Lock()

    def segment(self, xray: Path, kinds: tuple[str, ...]) -> Segmented:
        """Request the objects of one X-ray.

        Args:
            xray: file of the X-ray.
            kinds: requested objects, of `seg`, `sc`, `sr` and `gsps`.

        Raises:
            ServiceBusy: no service can answer now.
            XrayRefused: none will ever.
        """
        with self._least_busy() as service:
            response = self._ask(service, xray, kinds)
        if response.status_code != httpx.codes.OK:
            raise _refusal(response)
        files = parts_of(response.headers.get("content-type", ""), response.content)
        if len(files) != len(kinds):
            raise XrayRefused(response.status_code, "bad_answer", "it holds other objects.")
        codes = response.headers.get("x-lungseg-warnings", "").split(",")
        warnings = tuple(code for code in codes if code)
        is_refused = response.headers.get("x-lungseg-severity") == "refuse" or bool(
            set(warnings) & set(self._settings.refuse_warnings)
        )
        objects = dict(zip(kinds, files, strict=True))
        return Segmented(objects, _model_of(response), warnings, is_refused)

    def check(self) -> list[str]:
        """Return a sentence for each fault of a service."""
        return [
            f"service {one.url}: {fault}"
            for one, service in zip(self._settings.services, self._services, strict=True)
            if (fault := _fault_of(service.client, self._settings.model)) is not None
        ]

    def close(self) -> None:
        """Close the connections."""
        for service in self._services:
            service.client.close()

    def _ask(self, service: _Service, xray: Path, kinds: tuple[str, ...]) -> httpx.Response:
        parameters = {
            "convention": self._settings.convention,
            "lungs": self._settings.lungs,
            "view": self._settings.view,
            "objects": ",".join(kinds),
        }
        if self._settings.model is not None:
            parameters["model"] = self._settings.model
        headers = {
            "Content-Type": "application/dicom",
            "Accept": 'multipart/related; type="application/dicom"',
        }
        try:
            with xray.open("rb") as file:
                headers["Content-Length"] = str(xray.stat().st_size)
                response = service.client.post(
                    "segment", params=parameters, headers=headers, content=file
                )
        except httpx.HTTPError:
            raise self._resting(service, None) from None
        if response.status_code in _BUSY_STATUSES:
            raise self._resting(service, response)
        if (fault := self._fault_that_is_not_the_xrays(response)) is not None:
            fields = {"service": service.url, "reason": fault}
            logger.error("service_unusable", extra={"fields": fields})
            raise self._resting(service, response)
        service.failures = 0
        return response

    def _fault_that_is_not_the_xrays(self, response: httpx.Response) -> str | None:
        """Return a fault that must be corrected in the service or the node's configuration."""
        wanted = self._settings.model
        if response.status_code == httpx.codes.OK:
            served = _model_of(response)
            is_other = wanted is not None and not _is_named(wanted, served)
            return f"it answered by {served or 'no model'}, not {wanted}." if is_other else None
        refusal = _refusal(response)
        if response.status_code in _UNUSABLE_STATUSES or refusal.code in _UNUSABLE_CODES:
            return f"{refusal}"
        return None

    def _resting(self, service: _Service, response: httpx.Response | None) -> ServiceBusy:
        """Send a service no requests for as long as it asks."""
        service.failures += 1
        doubled_s = _DEFAULT_PAUSE_S * 2 ** min(service.failures - 1, 5)
        pause_s = min(max(_announced_s(response), doubled_s), _LONGEST_PAUSE_S)
        now = time.monotonic()
        service.rests_until = now + pause_s
        # Another service may be free: the X-ray need not wait for this one.
        return ServiceBusy(max(0.0, min(one.rests_until for one in self._services) - now))

    @contextmanager
    def _least_busy(self) -> Any:
        now = time.monotonic()
        with self._lock:
            rested = [one for one in self._services if one.rests_until <= now]
            if not rested:
                raise ServiceBusy(min(one.rests_until for one in self._services) - now)
            service = min(rested, key=lambda one: one.open_requests)
            service.open_requests += 1
        try:
            yield service
        finally:
            with self._lock:
                service.open_requests -= 1


def parts_of(content_type: str, body: bytes) -> list[bytes]:
    """Return the files in a body of the type multipart/related.

    Args:
        content_type: value of the header, which names the boundary.
        body: bytes of the whole body.
    """
    _, _, rest = content_type.partition("boundary=")
    boundary = rest.split(";")[0].strip().strip('"').encode()
    if not boundary:
        return []
    pieces = body.split(b"--" + boundary)[1:-1]
    return [piece.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n") for piece in pieces]


def trusting(trusted: Path | None) -> ssl.SSLContext | bool:
    """Return httpx's setting for verifying certificates."""
    return True if trusted is None else ssl.create_default_context(cafile=trusted)


def _client(settings: ServiceSettings, timeout_s: float) -> httpx.Client:
    headers = {}
    if settings.api_key_file is not None:
        headers["Authorization"] = f"Bearer {first_line(settings.api_key_file)}"
    return httpx.Client(
        base_url=settings.url.rstrip("/") + "/",
        headers=headers,
        timeout=timeout_s,
        # A transport of our own: httpx would send loopback addresses through a proxy.
        transport=httpx.HTTPTransport(
            verify=trusting(settings.trusted), proxy=proxy_for(settings.url)
        ),
    )


def _refusal(response: httpx.Response) -> XrayRefused:
    try:
        problem: Mapping[str, Any] = response.json()
    except ValueError:
        problem = {}
    code = str(problem.get("code", "unknown"))
    detail = str(problem.get("detail", "no reason given."))
    return XrayRefused(response.status_code, code, detail)


def _announced_s(response: httpx.Response | None) -> float:
    text = "" if response is None else response.headers.get("retry-after", "")
    return float(text) if text.isascii() and text.isdecimal() else 0.0


def _fault_of(client: httpx.Client, model: str | None) -> str | None:
    try:
        status = client.get("readyz").status_code
        if status != httpx.codes.OK:
            return f"is not ready (it says {status} to /readyz)."
        answer = client.get("v1/models")
    except httpx.HTTPError as error:
        return f"does not answer ({type(error).__name__}); is it started, and is the address right?"
    if answer.status_code in (401, 403):
        return f"does not take the key of api_key_file ({answer.status_code})."
    if model is None:
        return None
    names = _names_of_models(answer)
    if any(_is_named(model, name) for name in names):
        return None
    return f"serves no model {model}; it serves {', '.join(names) or 'none that it names'}."


def _model_of(response: httpx.Response) -> str:
    return str(response.headers.get("x-lungseg-model", ""))


def _is_named(wanted: str, model: str) -> bool:
    """Return whether NAME/VERSION or NAME refers to a model."""
    return wanted in (model, model.partition("/")[0])


def _names_of_models(answer: httpx.Response) -> list[str]:
    try:
        models = [one["model"] for one in answer.json()["models"]]
        return [f"{model['name']}/{model['version']}" for model in models]
    except (ValueError, KeyError, TypeError):
        return []
