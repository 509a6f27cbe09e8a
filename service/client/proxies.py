"""The proxy for an address, from the environment, as the standard library reads it.

httpx parses `NO_PROXY` itself. It fails on forms that other programs accept (`::1`, `[::1]`,
`10.0.0.0/8`), and sends loopback addresses through a proxy.
"""

from __future__ import annotations

import ipaddress
import urllib.request
from urllib.parse import urlsplit


def proxy_for(address: str) -> str | None:
    """Return the address of the proxy; None if the address needs no proxy."""
    parts = urlsplit(address)
    host = parts.hostname or ""
    if _is_loopback(host):
        return None
    proxies = urllib.request.getproxies()
    if urllib.request.proxy_bypass(parts.netloc.rpartition("@")[2]) or _is_listed(host, proxies):
        return None
    found = proxies.get(parts.scheme) or proxies.get("all")
    return f"http://{found}" if found and "://" not in found else found


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return host == "localhost" or host.endswith(".localhost")


def _is_listed(host: str, proxies: dict[str, str]) -> bool:
    """Return whether `NO_PROXY` names the host by a network, which urllib does not read."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    for entry in proxies.get("no", "").split(","):
        try:
            if address in ipaddress.ip_network(entry.strip().strip("[]"), strict=False):
                return True
        except ValueError:  # a name
            continue
    return False
