"""Headers of answers, for the OpenAPI description and for pages of other origins."""

from __future__ import annotations

from typing import Any

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
"""Headers of an answer that is one picture, with the content of JSON's members."""
