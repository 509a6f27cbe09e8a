"""RFC 9457 problem documents for all errors.

`application/problem+json` with `type`, `title`, `status`, `detail`, and our members `code` (stable,
for programs), `request_id` (for a telephone call with the operator) and `error` (the sentence
again, for simple clients).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match

from service.errors import (
    ExpiredKey,
    InsufficientScope,
    InternalError,
    MethodNotAllowed,
    NotFound,
    ServiceError,
    TooManyAttempts,
    WrongKey,
)
from service.http.schemas import Problem
from service.request_record import record_of

if TYPE_CHECKING:
    from fastapi import FastAPI

KEY_REFUSALS = (WrongKey, ExpiredKey, InsufficientScope, TooManyAttempts)
"""Problems of an API key."""

PROBLEM_MEDIA_TYPE = "application/problem+json"
INTERNAL_SENTENCE = (
    "Something failed inside the service; tell its operator the request_id of this answer."
)


def problem_response(error: ServiceError, request_id: str) -> Response:
    """Render an error as a problem document.

    Args:
        error: error to report.
        request_id: id of the request that is answered.

    Returns:
        The answer, with `Retry-After` if the error has one.
    """
    headers = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    problem = Problem(
        type="about:blank",
        title=error.title,
        status=error.status,
        detail=error.detail,
        code=error.code,
        request_id=request_id,
        error=error.detail,
    )
    return Response(
        problem.model_dump_json(), error.status, headers=headers, media_type=PROBLEM_MEDIA_TYPE
    )


def internal_problem(request_id: str) -> Response:
    """Render the fixed answer to an unforeseen error."""
    return problem_response(InternalError(INTERNAL_SENTENCE), request_id)


def install_problem_handlers(app: FastAPI) -> None:
    """Make the app answer all errors, the router's included, with problem documents."""

    async def answer_service_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, ServiceError)
        return noted_problem(request, error)

    async def answer_router_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if error.status_code == 405:
            return _method_not_allowed(app, request)
        if error.status_code == 404:
            sentence = "No such address; see /docs for those that exist."
            return noted_problem(request, NotFound(sentence))
        return noted_problem(request, InternalError(INTERNAL_SENTENCE))

    app.add_exception_handler(ServiceError, answer_service_error)
    app.add_exception_handler(HTTPException, answer_router_error)


def noted_problem(request: Request, error: ServiceError) -> Response:
    """Render an error and note its code in the request's record, for log and metrics."""
    record = record_of(request.scope)
    record.problem_code = error.code
    return problem_response(error, record.request_id)


def _method_not_allowed(app: FastAPI, request: Request) -> Response:
    """Answer 405 with all methods of the path; the router itself names only the first route's."""
    methods: set[str] = set()
    for route in app.routes:
        match, _ = route.matches(request.scope)
        if match is not Match.NONE:
            methods |= getattr(route, "methods", None) or set()
    allowed = ", ".join(sorted(methods))
    response = noted_problem(request, MethodNotAllowed(f"This address answers only {allowed}."))
    response.headers["Allow"] = allowed
    return response


def problem_responses(*kinds: type[ServiceError]) -> dict[int | str, dict[str, Any]]:
    """Document problems for OpenAPI, grouped by status."""
    by_status: dict[int, list[type[ServiceError]]] = {}
    for kind in kinds:
        by_status.setdefault(kind.status, []).append(kind)
    return {status: _documented(group) for status, group in sorted(by_status.items())}


def _documented(kinds: list[type[ServiceError]]) -> dict[str, Any]:
    examples = {
        kind.code: {
            "summary": kind.title,
            "value": {
                "type": "about:blank",
                "title": kind.title,
                "status": kind.status,
                "detail": kind.title + ".",
                "code": kind.code,
                "request_id": "5f0c6f0e3f4d4c0f8f4b6a1f0e9d8c7b",
                "error": kind.title + ".",
            },
        }
        for kind in kinds
    }
    named = "; ".join(f"{kind.title} (`{kind.code}`)" for kind in kinds)
    answer: dict[str, Any] = {
        "description": f"One of: {named}" if len(kinds) > 1 else named,
        "content": {
            PROBLEM_MEDIA_TYPE: {
                "schema": {"$ref": "#/components/schemas/Problem"},
                "examples": examples,
            }
        },
    }
    if kinds[0].status in (429, 503):
        answer["headers"] = {
            "Retry-After": {
                "description": "Seconds after which a retry makes sense.",
                "required": True,
                "schema": {"type": "integer", "minimum": 1},
            }
        }
    return answer
