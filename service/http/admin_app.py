"""The admin port: show, replace or roll back the served model.

It is a separate port on loopback, and each request needs an API key with the scope `admin`.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from model_store.model_info import ModelInfo
from service.errors import InvalidField, ReloadRefused
from service.http.key_file import KeyScope
from service.http.keys import ApiKeys
from service.http.problems import install_problem_handlers
from service.http.request_middleware import RequestMiddleware
from service.pipeline.model_generations import ModelGenerations, ReloadError
from service.pipeline.segmentation import SegmentationService, identity_of
from service.request_record import record_of

MOST_BODY_BYTES = 16_384


def create_admin_app(service: SegmentationService, keys: ApiKeys) -> FastAPI:
    """Build the application of the admin port.

    Args:
        service: service whose model is changed.
        keys: the API keys; each request needs one with the scope `admin`.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)

    async def status(request: Request) -> Response:
        keys.admit(request, KeyScope.ADMIN)
        models = [_status_of(one) for one in service.models.each]
        return JSONResponse(
            {
                "state": service.readiness.state.value,
                **models[0],
                "models": models,
                "requests_running": service.requests_running,
            }
        )

    async def reload(request: Request) -> Response:
        keys.admit(request, KeyScope.ADMIN)
        fields = await _fields_of(request, "model", "of")
        folder = _folder_in(fields)
        served = service.models.named(fields.get("of"))
        return await changed(request, "reload", served, served.reload(folder))

    async def rollback(request: Request) -> Response:
        keys.admit(request, KeyScope.ADMIN)
        fields = await _fields_of(request, "of")
        served = service.models.named(fields.get("of"))
        return await changed(request, "rollback", served, served.rollback())

    async def changed(
        request: Request, event: str, served: ModelGenerations, work: Awaitable[ModelInfo]
    ) -> Response:
        before = served.served.info
        try:
            info = await work
        except ReloadError as error:
            service.metrics.model_reloads.labels("refused").inc()
            _note(request, event, "refused", before)
            raise ReloadRefused(str(error)) from None
        service.metrics.model_reloads.labels("done").inc()
        _note(request, event, "done", info)
        return JSONResponse({"served": _identity(info), "before": _identity(before)})

    def _note(request: Request, event: str, outcome: str, info: ModelInfo | None) -> None:
        """Write the change to the audit log, if there is one."""
        if service.auditing is None:
            return
        entry = {
            "event": event,
            "outcome": outcome,
            "key": record_of(request.scope).key_name,
            "model": None if info is None else f"{info.name}/{info.version}",
            "model_sha256": None if info is None else info.sha256,
        }
        service.auditing.log.append(entry)

    app.add_api_route("/admin/status", status, methods=["GET"], response_model=None)
    app.add_api_route("/admin/reload", reload, methods=["POST"], response_model=None)
    app.add_api_route("/admin/rollback", rollback, methods=["POST"], response_model=None)
    install_problem_handlers(app)
    app.add_middleware(RequestMiddleware, counter=service.metrics)
    return app


async def _fields_of(request: Request, *names: str) -> dict[str, str]:
    """Read an object of text members, such as `{"model": "/models/name/1"}`, or nothing.

    Raises:
        InvalidField: the body is something else.
    """
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > MOST_BODY_BYTES:
            raise InvalidField(f"The body may have at most {MOST_BODY_BYTES} bytes.")
    if not body.strip():
        return {}
    try:
        fields: Any = json.loads(body)
    except ValueError:
        fields = None
    if not isinstance(fields, dict) or not set(fields) <= set(names):
        known = " and ".join(names)
        raise InvalidField(
            f"The body must be a JSON object of {known}, each of which may be left out."
        )
    found = {name: value for name, value in fields.items() if value is not None}
    for name, value in found.items():
        if not isinstance(value, str):
            raise InvalidField(f"The field {name} must be text.")
    return found


def _folder_in(fields: Mapping[str, str]) -> Path | None:
    folder = fields.get("model")
    if folder is None:
        return None
    if not Path(folder).is_absolute():
        raise InvalidField("The field model must be the absolute path of a model's folder.")
    return Path(folder)


def _status_of(served: ModelGenerations) -> dict[str, Any]:
    before = None if served.before is None else served.before.info
    return {"served": _identity(served.served.info), "before": _identity(before)}


def _identity(info: ModelInfo | None) -> dict[str, Any] | None:
    return None if info is None else identity_of(info).model_dump(mode="json")
