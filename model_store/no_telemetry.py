"""Prevent libraries from sending usage reports.

When OpenVINO is imported, a package of its own sends an event to an analytics server. OpenVINO
works without that package. A process that sees X-rays opens no connection that its
operator did not ask for.
"""

from __future__ import annotations

import sys

REPORTING_MODULES = ("openvino_telemetry",)


def forbid_telemetry() -> None:
    """Block the import of telemetry modules; call it before anything could import them."""
    for name in REPORTING_MODULES:
        sys.modules[name] = None  # type: ignore[assignment]  # documented: importing it then fails
