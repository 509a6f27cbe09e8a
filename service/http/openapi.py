"""Additions to the OpenAPI description beyond the routes' own models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI

from service.errors import ServiceError
from service.http.answer_headers import ANSWER_HEADERS
from service.http.schemas import Problem

_KEY_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "Authorization: Bearer KEY"},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
OPEN_PATHS = ("/livez", "/readyz", "/health", "/healthz", "/metrics")
"""Paths without a key; the operator may require one for the metrics."""


def describe_app(app: FastAPI, *, asks_for_keys: bool, metrics_ask_for_keys: bool = False) -> None:
    """Add problem documents, headers and API keys to the description of an app.

    Args:
        app: its `openapi` is replaced.
        asks_for_keys: whether the operator requires API keys.
        metrics_ask_for_keys: whether `/metrics` does, too.
    """
    open_paths = set(OPEN_PATHS) - ({"/metrics"} if metrics_ask_for_keys else set())
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        document = describe()
        components = document.setdefault("components", {})
        problem = Problem.model_json_schema()
        problem["properties"]["code"]["enum"] = problem_codes()
        components.setdefault("schemas", {})["Problem"] = problem
        if asks_for_keys:
            components["securitySchemes"] = _KEY_SCHEMES
        for path, operations in document["paths"].items():
            for operation in operations.values():
                _add_headers(operation["responses"].values())
                if asks_for_keys and path not in open_paths:
                    operation["security"] = [{name: []} for name in _KEY_SCHEMES]
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def problem_codes() -> list[str]:
    """Return the code of every refusal."""
    return sorted({error.code for error in _descendants(ServiceError)})


def _descendants(parent: type[ServiceError]) -> Iterator[type[ServiceError]]:
    yield parent
    for child in parent.__subclasses__():
        yield from _descendants(child)


def _add_headers(responses: Any) -> None:
    for response in responses:
        response["headers"] = {**ANSWER_HEADERS, **response.get("headers", {})}
