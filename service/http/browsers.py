"""Protect a service without keys from foreign web pages.

Without keys the service trusts everybody who reaches its port, and a browser on this machine
reaches it for every page that it shows. Two attacks are refused, as by Go's
`http.CrossOriginProtection` and Django's `ALLOWED_HOSTS`. In the first, a page of another origin
posts; `Sec-Fetch-Site` or `Origin`, which no page can forge, reveal it. In the second, a foreign
name resolves to this machine ("DNS rebinding"), so that the page has the service's origin; `Host`
reveals it. Navigations, and programs that send none of these headers, are accepted.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import ForeignOrigin, HostNotAllowed, ServiceError
from service.http.early_response import EarlyResponse
from service.http.problems import noted_problem
from service.http.upload import RequestBody
from service.loopback import is_loopback

ANY_HOST = "*"
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_WILDCARD_ADDRESSES = ("0.0.0.0", "::")
_DEFAULT_PORTS = {"http": 80, "https": 443}


class AllowedHosts:
    """The names by which the service may be called."""

    def __init__(self, bound_host: str, further: Sequence[str]) -> None:
        """Keep the names; loopback names are always allowed.

        Args:
            bound_host: address or name that the service listens on. A wildcard allows every numeric
                address, because no name server can redirect those.
            further: further names, without ports; `*` allows all.
        """
        self._names = {bound_host.lower(), *(name.lower().rstrip(".") for name in further)}
        self._allows_any = ANY_HOST in self._names
        self._allows_addresses = bound_host in _WILDCARD_ADDRESSES

    def allow(self, host: str) -> bool:
        """Return whether a `Host` header names the service; an absent header is allowed."""
        if not host or self._allows_any:
            return True
        name = _name_of(host)
        if name is None:
            return False
        is_listed = is_loopback(name) or name in self._names
        return is_listed or (self._allows_addresses and _is_address(name))


class BrowserGuard:
    """ASGI middleware that answers 403 to requests from foreign web pages."""

    def __init__(
        self,
        app: ASGIApp,
        hosts: AllowedHosts,
        trusted_origins: Sequence[str],
        idle_timeout_s: float,
    ) -> None:
        """Wrap an app.

        Args:
            app: app that answers accepted requests.
            hosts: names by which the service may be called.
            trusted_origins: origins whose pages may post, such as `https://viewer.example`.
            idle_timeout_s: seconds without a byte of a refused upload, which is read and dropped.
        """
        self._app = app
        self._hosts = hosts
        self._trusted_origins = {origin.lower().rstrip("/") for origin in trusted_origins}
        self._idle_timeout_s = idle_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI scope."""
        if scope["type"] == "http":
            try:
                self._require_own(scope["method"], Headers(scope=scope))
            except ServiceError as error:
                await self._refusal(scope, receive, error)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _refusal(self, scope: Scope, receive: Receive, error: ServiceError) -> Response:
        answer = noted_problem(Request(scope), error)
        if Headers(scope=scope).get("expect", "").lower() == "100-continue":
            return answer  # such a client has sent nothing yet
        return EarlyResponse(answer, RequestBody(receive, self._idle_timeout_s))

    def _require_own(self, method: str, headers: Headers) -> None:
        host = headers.get("host", "")
        if not self._hosts.allow(host):
            raise HostNotAllowed(
                "The service does not answer to this name; its operator can allow the name "
                "with --allowed-hosts."
            )
        if method not in SAFE_METHODS and self._is_foreign(headers, host):
            raise ForeignOrigin(
                "A web page of another origin sent this; the operator can allow the origin with "
                "--cors-origins, or require API keys."
            )

    def _is_foreign(self, headers: Headers, host: str) -> bool:
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        if origin is not None and origin.lower() in self._trusted_origins:
            return False
        if site in ("cross-site", "same-site"):
            return True
        # Proxies may omit the port in `Host`; then the browser's `Sec-Fetch-Site` decides.
        return origin is not None and not _is_origin_of(origin, host, site == "same-origin")


def _is_origin_of(origin: str, host: str, ignores_port: bool) -> bool:
    """Return whether a page of this origin was served under this `Host`."""
    try:
        page = urlsplit(origin)
        called = urlsplit(f"{page.scheme}://{host}")
        ports = [one.port or _DEFAULT_PORTS.get(page.scheme) for one in (page, called)]
    except ValueError:
        return False
    if not page.hostname or page.hostname != called.hostname:
        return False
    return ignores_port or ports[0] == ports[1]


def _name_of(host: str) -> str | None:
    """Return the name or address in a `Host` header without its port; None if it is invalid."""
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port  # raises if it is not a number
    except ValueError:
        return None
    if parts.netloc != host or "@" in host or not parts.hostname:
        return None
    return parts.hostname.rstrip(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
