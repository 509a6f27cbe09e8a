"""The app of a front: it serves routes that take an X-ray and forwards all others."""

from __future__ import annotations

from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from service.fronts.remote_masks import RemoteMasks
from service.http.guarded import guarded
from service.http.request_middleware import RequestMiddleware, to_origin_form
from service.http.traces import TraceSink
from service.http.xray_routes import XrayRoutes
from service.request_record import RequestRecord
from service.workers.framing import Frame, Kind


class RemoteCounter:
    """Reports each finished request to the serving process."""

    def __init__(self, send: Callable[[Frame], object]) -> None:
        """Keep the function that sends to the serving process."""
        self._send = send

    def count_request(self, record: RequestRecord, status: int, *, has_left: bool) -> None:
        """Report a request; the serving process then frees what it holds for it."""
        fields = {
            "number": record.number or 0,
            "route": record.route,
            "status": status,
            "seconds": record.elapsed_s(),
            "problem_code": record.problem_code,
            "model": record.requested_model,
            "has_left": has_left,
        }
        self._send(Frame(Kind.COUNT, fields))


def create_front_app(
    masks: RemoteMasks, counter: RemoteCounter, traces: TraceSink | None
) -> ASGIApp:
    """Build the app.

    Args:
        masks: connection to the serving process.
        counter: counts each request for masks.
        traces: records those requests.
    """
    routes = XrayRoutes(masks.forward, masks)
    served = RequestMiddleware(guarded(routes, masks.settings), counter, traces)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        to_origin_form(scope)
        answers = served if routes.takes(scope) else masks.forward
        await answers(scope, receive, send)

    return app
