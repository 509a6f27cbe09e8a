"""The identity of a caller for counts and turns: the name of its key, otherwise its address.

Behind a proxy all addresses are the proxy's, and headers with other addresses are not trusted.
There only keys distinguish callers.
"""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network

_NETWORK_BITS = 64
"""Bits of an IPv6 address that count: its owner is free to choose the rest."""


def caller_with_key(name: str) -> str:
    """Return the caller for a key's name."""
    return f"key {name}"


def caller_at(client: tuple[str, int] | None) -> str:
    """Return the caller for an address.

    Args:
        client: address and port from ASGI; None for a connection without an address.
    """
    return "at no address" if client is None else f"at {network_of(client[0])}"


def caller_of(key_name: str | None, address: str) -> str:
    """Return the caller for a key's name, or for an address without a key."""
    return caller_at((address, 0)) if key_name is None else caller_with_key(key_name)


def network_of(address: str) -> str:
    """Return the part of an address that a caller cannot choose: all of IPv4, half of IPv6."""
    if ":" not in address:
        return address
    try:
        found = IPv6Address(address.partition("%")[0])
    except ValueError:  # the file of a Unix socket
        return address
    return str(found.ipv4_mapped or IPv6Network((found, _NETWORK_BITS), strict=False))
