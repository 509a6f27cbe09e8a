"""Routes that accept an X-ray, answered without the framework's routing.

OpenAPI describes them among the other routes. Matching them here saves each request the time of
routing and of injecting parameters.
"""

from __future__ import annotations

from collections.abc import Mapping

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from service.http.mask_source import MaskSource
from service.http.preview_endpoint import PreviewEndpoint
from service.http.segment_endpoint import SegmentEndpoint
from service.http.xray_request import Endpoint, answer_xray
from service.metrics import SEGMENT_PATHS
from service.request_record import record_of

PREVIEW_PATH = "/preview"


class XrayRoutes:
    """ASGI app that answers requests with an X-ray and passes the rest to another app."""

    def __init__(self, app: ASGIApp, masks: MaskSource) -> None:
        """Keep `app` for other requests, and the source of masks."""
        self._app = app
        self._masks = masks
        segment, preview = SegmentEndpoint(masks).answer, PreviewEndpoint(masks).answer
        self._endpoints: Mapping[str, Endpoint] = {
            **dict.fromkeys(SEGMENT_PATHS, segment),
            PREVIEW_PATH: preview,
        }

    def takes(self, scope: Scope) -> bool:
        """Return whether a request is answered here."""
        return (
            scope["type"] == "http"
            and scope["method"] == "POST"
            and scope["path"] in self._endpoints
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI scope."""
        if not self.takes(scope):
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        record_of(scope).route = path
        request = Request(scope, receive)
        answer = await answer_xray(request, self._masks, self._endpoints[path])
        await answer(scope, receive, send)
