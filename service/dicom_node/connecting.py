"""HTTP connections of the node: through the hospital's proxy, but never to this machine.

The libraries requests and httpx send loopback addresses through `http_proxy`, which Docker may set
in every container. A service or an archive on the same host would then always seem down.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import requests
from requests.adapters import HTTPAdapter

from service.client.proxies import proxy_for


class ProxyByAddress(HTTPAdapter):
    """Chooses the proxy by the address, whatever requests read from the environment."""

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: Any = True,
        cert: Any = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """Send one request; the arguments are those of requests, and `proxies` is ignored."""
        proxy = proxy_for(str(request.url))
        chosen = {} if proxy is None else {"all": proxy}
        return super().send(request, stream, timeout, verify, cert, chosen)


def with_right_proxies(session: requests.Session) -> requests.Session:
    """Return the session, changed to reach this machine directly."""
    for scheme in ("http://", "https://"):
        session.mount(scheme, ProxyByAddress())
    return session
