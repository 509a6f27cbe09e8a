"""Loopback addresses."""

from __future__ import annotations

import ipaddress


def is_loopback(host: str) -> bool:
    """Return whether a name or an address (without brackets) is loopback.

    `localhost` and all names below it are, whatever a name server says (RFC 6761, section 6.3).
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        name = host.lower().rstrip(".")
        return name == "localhost" or name.endswith(".localhost")
