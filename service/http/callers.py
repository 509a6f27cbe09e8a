"""Who a caller is when requests are counted or take turns: the name of its key, else its address.

Behind a proxy all addresses are the proxy's, and headers that say otherwise are not trusted: there
keys distinguish callers.
"""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network

_NETWORK_BITS = 64
"""Of an IPv6 address: its owner is free to choose the rest."""


def caller_with_key(name: str) -> str:
    """Return who sends requests with a key of this name."""
    return f"key {name}"


def caller_at(client: tuple[str, int] | None) -> str:
    """Return who sends requests from an address.

    Args:
        client: the address and its port, as ASGI tells them; None for a connection without.
    """
    return "at no address" if client is None else f"at {network_of(client[0])}"


def caller_of(key_name: str | None, address: str) -> str:
    """Return who sends requests with a key of this name, or without one from an address."""
    return caller_at((address, 0)) if key_name is None else caller_with_key(key_name)


def network_of(address: str) -> str:
    """Return what a caller cannot change at will: an IPv4 address, or half of an IPv6 one."""
    if ":" not in address:
        return address
    try:
        found = IPv6Address(address.partition("%")[0])
    except ValueError:  # a socket's file
        return address
    return str(found.ipv4_mapped or IPv6Network((found, _NETWORK_BITS), strict=False))
