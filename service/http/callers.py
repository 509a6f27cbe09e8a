"""Who a caller is when requests take turns: the name of its key, else its address.

Behind a proxy all addresses are the proxy's, and headers that say otherwise are not believed: there
keys tell callers apart.
"""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network

_HOUSEHOLD_BITS = 64
"""Of an IPv6 address: its owner is free to choose the rest."""


def caller_with_key(name: str) -> str:
    """Return who sends requests with a key of this name."""
    return f"key {name}"


def caller_at(client: tuple[str, int] | None) -> str:
    """Return who sends requests from an address.

    Args:
        client: the address and its port, as ASGI tells them; None for a connection without.
    """
    if client is None:
        return "at no address"
    host = client[0].partition("%")[0]
    if ":" not in host:
        return f"at {host}"
    try:
        address = IPv6Address(host)
    except ValueError:  # a socket's file
        return f"at {host}"
    mapped = address.ipv4_mapped
    return f"at {mapped or IPv6Network((address, _HOUSEHOLD_BITS), strict=False)}"
