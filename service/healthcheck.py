"""`python -m service.healthcheck`: exit code 0 when the service of this container is ready, else 1.

It reads the same `LUNGSEG_*` variables as the service, so that another port or TLS needs no other
check; flags given to the service alone it cannot know. It never asks through a proxy: Docker may
inject `http_proxy` into every container.
"""

from __future__ import annotations

import os
import ssl
import sys
import urllib.error
import urllib.request

from service.settings import Settings, settings_from

TIMEOUT_S = 4.0


def main() -> int:
    """Ask `/readyz` once.

    Returns:
        0 when it is ready; 1 when it is not or does not answer.
    """
    settings = settings_from([], os.environ)
    # The certificate is for the name that callers use; this call does not leave the container.
    context = ssl._create_unverified_context() if settings.tls_cert else None
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}),  # none, whatever `http_proxy` says
        urllib.request.HTTPSHandler(context=context),
    )
    try:
        with opener.open(ready_url(settings), timeout=TIMEOUT_S):
            return 0
    except (OSError, urllib.error.URLError) as error:
        print(f"not ready: {error}", file=sys.stderr)
        return 1


def ready_url(settings: Settings) -> str:
    """Return the address of `/readyz` as seen from the same machine."""
    everywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}
    host = everywhere.get(settings.host, settings.host)
    shown_host = f"[{host}]" if ":" in host else host
    scheme = "http" if settings.tls_cert is None else "https"
    return f"{scheme}://{shown_host}:{settings.port}/readyz"


if __name__ == "__main__":
    sys.exit(main())
