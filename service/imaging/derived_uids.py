"""UIDs derived from an object's content, so that the same request makes the same object.

A repeated request must not leave two objects in an archive, and two different masks must never
share a UID. Both hold when the UID is a digest of the object's own bytes. Somebody who has an
X-ray and the model can compute the UID too, and so link objects to their X-rays; a key prevents
that (`--uid-key`).
"""

from __future__ import annotations

import hashlib
import hmac
import uuid
from collections.abc import Iterable

_PREFIX = "2.25."  # PS3.5 B.2: a UUID as one decimal number
_VERSION_8 = 0x8 << 76  # RFC 9562: a UUID of one's own making
_VERSION_MASK = ~(0xF << 76)
_VARIANT = 0b10 << 62
_VARIANT_MASK = ~(0b11 << 62)


def derive_uid(key: str, *parts: bytes | str) -> str:
    """Return a UID that depends only on the key and the parts.

    Args:
        key: secret of the deployment; empty for a plain digest that anybody can compute.
        parts: content to name; other divisions give other UIDs.

    Returns:
        A UID of at most 44 characters under 2.25.
    """
    digest = hmac.digest(key.encode(), b"".join(_framed(parts)), hashlib.sha256)
    number = int.from_bytes(digest[:16], "big")
    number = (number & _VERSION_MASK) | _VERSION_8
    number = (number & _VARIANT_MASK) | _VARIANT
    return f"{_PREFIX}{uuid.UUID(int=number).int}"


def derive_key(key: str, name: str) -> str:
    """Return a key for the UIDs of one X-ray, which reveals nothing about those of others.

    Args:
        key: secret of the deployment.
        name: identifier of the X-ray.
    """
    return hmac.digest(key.encode(), b"".join(_framed(["key", name])), hashlib.sha256).hex()


def _framed(parts: Iterable[bytes | str]) -> Iterable[bytes]:
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        yield len(data).to_bytes(8, "big")
        yield data
