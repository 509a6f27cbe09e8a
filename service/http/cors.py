"""CORS: pages of listed origins may call the service from a browser and read its answers.

Pages of other origins get no such headers and can read nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import ForeignOrigin
from service.http.problems import noted_problem

SENT_HEADERS = ("Authorization", "Content-Type", "X-API-Key", "X-Request-ID", "traceparent")
"""Headers that a page may send beside the usual ones."""

_PREFLIGHT_HOLDS_S = 600


class ListedOrigins:
    """ASGI middleware that allows listed origins to read answers, without credentials."""

    def __init__(self, app: ASGIApp, origins: Sequence[str], read_headers: Sequence[str]) -> None:
        """Wrap an app.

        Args:
            app: app that answers everything but preflights of listed origins.
            origins: exact origins, as browsers write them: `https://viewer.example`.
            read_headers: headers of answers that a page may read.
        """
        self._app = app
        self._origins = frozenset(origins)
        self._cors = CORSMiddleware(
            app,
            allow_origins=origins,
            allow_methods=("GET", "HEAD", "POST"),
            allow_headers=SENT_HEADERS,
            expose_headers=read_headers,
            max_age=_PREFLIGHT_HOLDS_S,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI scope."""
        headers = Headers(scope=scope) if scope["type"] == "http" else Headers()
        if headers.get("origin") not in self._origins:
            await self._app(scope, receive, send)
        elif self._is_refused_preflight(scope["method"], headers):
            sentence = (
                "A page may send GET, HEAD and POST, with the headers of every browser and "
                f"{', '.join(SENT_HEADERS)}; this one asked for another method or header."
            )
            await noted_problem(Request(scope), ForeignOrigin(sentence))(scope, receive, send)
        else:
            await self._cors(scope, receive, send)

    def _is_refused_preflight(self, method: str, headers: Headers) -> bool:
        is_preflight = method == "OPTIONS" and "access-control-request-method" in headers
        return is_preflight and self._cors.preflight_response(headers).status_code != 200
