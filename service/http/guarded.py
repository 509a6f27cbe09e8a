"""The configured middleware before the routes: foreign pages, and CORS."""

from __future__ import annotations

from starlette.types import ASGIApp

from service.http.answer_headers import ANSWER_HEADERS, MASK_HEADERS
from service.http.browsers import AllowedHosts, BrowserGuard
from service.http.cors import ListedOrigins
from service.settings import Settings


def guarded(app: ASGIApp, settings: Settings) -> ASGIApp:
    """Return an app behind the configured middleware."""
    if settings.api_keys_file is None:
        app = BrowserGuard(
            app,
            hosts=AllowedHosts(settings.host, settings.allowed_hosts),
            trusted_origins=settings.cors_origins,
            idle_timeout_s=settings.upload_idle_timeout_s,
        )
    if settings.cors_origins:
        app = ListedOrigins(
            app,
            origins=settings.cors_origins,
            read_headers=[*ANSWER_HEADERS, *MASK_HEADERS, "Retry-After"],
        )
    return app
