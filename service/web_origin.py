"""Origins as in browsers: `https://viewer.example` or `http://127.0.0.1:8080`."""

from __future__ import annotations

import re

_ORIGIN = re.compile(r"(https?)://([a-z0-9_.-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?")
_USUAL_PORTS = {"http": "80", "https": "443"}


def web_origin(text: str) -> str:
    """Return an origin in the form of browsers: lower case, without the default port of its scheme.

    Raises:
        ValueError: it is not an origin, or has a path, a user or a pattern.
    """
    found = _ORIGIN.fullmatch(text.strip().lower())
    if found is None:
        raise ValueError(
            f"{text} is not an origin: scheme, name and port, such as https://viewer.example"
        )
    scheme, host, port = found.groups()
    return f"{scheme}://{host}" + ("" if port in (None, _USUAL_PORTS[scheme]) else f":{port}")
