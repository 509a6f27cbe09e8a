"""A refusal that is sent at once, even while the caller still sends the X-ray.

The answer does not wait for the rest of the body, so an overloaded service refuses within
milliseconds however slow the upload is. The rest is read and discarded, within bounds. If the
server closed the connection instead, most clients would report a broken pipe and never show the
answer.
"""

from __future__ import annotations

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.http.upload import RequestBody


class EarlyResponse(Response):
    """Wraps a finished answer; the connection stays usable for the next request."""

    def __init__(self, answer: Response, body: RequestBody) -> None:
        """Keep status, headers and content of `answer`."""
        super().__init__(answer.body, answer.status_code)
        self.raw_headers = answer.raw_headers
        self._request_body = body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send everything, read the rest of the request, then end the answer."""
        start = {
            "type": "http.response.start",
            "status": self.status_code,
            "headers": self.raw_headers,
        }
        await send(start)
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        await self._request_body.discard_rest()
        await send({"type": "http.response.body", "body": b"", "more_body": False})
