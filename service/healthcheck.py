"""`python -m service.healthcheck`: exit code 0 when the service of this container is ready, else 1.

It reads the same `LUNGSEG_*` variables as the service, so another port or TLS needs no other check.
It cannot know flags of the service's command line. It uses no proxy, because Docker may inject
`http_proxy` into every container.

With `--restart-frozen` it also kills a process that accepts connections but answered none of three
checks in a row. Docker itself would only mark it unhealthy; `restart: unless-stopped` then starts
it again. The container needs an init (`init: true`), because process 1 cannot be killed from
inside.
"""

from __future__ import annotations

import argparse
import os
import signal
import ssl
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from service.settings import Settings, settings_from

TIMEOUT_S = 4.0
MOST_SILENT_CHECKS = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Check once.

    Args:
        arguments: without the program's name; `sys.argv`'s when None.

    Returns:
        0 when it is ready; 1 when it is not or does not answer.
    """
    flags = _parser().parse_args(arguments)
    settings = settings_from([], os.environ)
    # The certificate has the name that callers use; this call does not leave the container.
    context = ssl._create_unverified_context() if settings.tls_cert else None
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}),  # no proxy, whatever `http_proxy` is
        urllib.request.HTTPSHandler(context=context),
    )
    is_silent = False
    try:
        with opener.open(flags.url or ready_url(settings), timeout=flags.timeout_s):
            return 0
    except (OSError, urllib.error.URLError) as error:
        is_silent = isinstance(getattr(error, "reason", error), TimeoutError)
        print(f"not ready: {error}", file=sys.stderr)
        return 1
    finally:
        if flags.restart_frozen:
            _note_silence(is_silent=is_silent)


def ready_url(settings: Settings) -> str:
    """Return the address of `/readyz` as seen from the same machine."""
    everywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}
    host = everywhere.get(settings.host, settings.host)
    shown_host = f"[{host}]" if ":" in host else host
    scheme = "http" if settings.tls_cert is None else "https"
    return f"{scheme}://{shown_host}:{settings.port}/readyz"


def _note_silence(*, is_silent: bool) -> None:
    """Count checks without any answer, and end the process after three in a row."""
    count_file = Path(tempfile.gettempdir()) / "lungseg-silent-checks"
    if not is_silent:
        count_file.unlink(missing_ok=True)
        return
    before = count_file.read_text() if count_file.is_file() else ""
    count = 1 + (int(before) if before.isdigit() else 0)
    count_file.write_text(str(count))
    if count < MOST_SILENT_CHECKS:
        return
    count_file.unlink(missing_ok=True)
    children = Path("/proc/1/task/1/children").read_text().split()
    if not children or Path("/proc/1/cmdline").read_bytes().split(b"\0")[1:2] == [b"-m"]:
        print("frozen, and process 1 itself: start the container with an init", file=sys.stderr)
        return
    print(f"frozen: no answer to {count} checks, so it is ended", file=sys.stderr)
    os.kill(min(map(int, children)), signal.SIGKILL)  # the process that init started first


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m service.healthcheck",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--url", help="ask here; default: the service's /readyz")
    parser.add_argument("--timeout-s", type=float, default=TIMEOUT_S, help="seconds for an answer")
    parser.add_argument(
        "--restart-frozen", action="store_true", help="end it after three checks without an answer"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
