"""What the description of the interface holds beyond the routes' own models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI

from service.errors import ServiceError
from service.http.schemas import Problem

_KEY_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "Authorization: Bearer KEY"},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
OPEN_PATHS = ("/livez", "/readyz", "/health", "/healthz", "/metrics")
"""Paths that ask for no key; the operator may want one for the metrics."""

ANSWER_HEADERS: dict[str, Any] = {
    "X-Request-ID": {
        "description": "id of the request, also in the log of the service",
        "schema": {"type": "string"},
    },
    "Server-Timing": {
        "description": "milliseconds of each step (W3C Server Timing)",
        "schema": {"type": "string"},
    },
}
"""Headers of every answer."""

MASK_HEADERS: dict[str, Any] = {
    f"X-Lungseg-{name}": {"description": f"{text}; with image/png", "schema": {"type": kind}}
    for name, text, kind in (
        ("Model", "name/version of the model", "string"),
        ("Model-Sha256", "digest of its weights", "string"),
        ("Precision", "of its products", "string"),
        ("Device", "where it runs", "string"),
        ("Convention", "what the mask follows", "string"),
        ("Threshold", "probability from which a pixel is lung", "number"),
        ("Bbox", "the box, x0,y0,x1,y1 in pixels", "string"),
        ("Score", "the model's estimate of the mask's IoU, 0 to 1", "number"),
        ("Confidence", "the Dice that the mask's own probabilities expect, 0 to 1", "number"),
        ("Structure", "lungs, right_lung or left_lung", "string"),
        ("View", "the view, where one was asked for", "string"),
        ("Area-Px", "pixels inside the mask", "integer"),
        ("Area-Fraction", "their share of the image, 0 to 1", "number"),
        ("Warnings", "codes of the warnings, separated by commas", "string"),
        ("Severity", "the gravest of the warnings: info, look or refuse; empty for none", "string"),
        ("Latency-Ms", "milliseconds of the request", "number"),
    )
}
"""Headers of an answer that is one picture: what JSON says in its members."""


def describe_app(app: FastAPI, *, asks_for_keys: bool, metrics_ask_for_keys: bool = False) -> None:
    """Add problem documents, headers and API keys to the description of an app.

    Args:
        app: its `openapi` is replaced.
        asks_for_keys: whether the operator asks for API keys.
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
