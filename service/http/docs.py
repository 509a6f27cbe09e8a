"""The interactive documentation at `/docs`, served whole from this process.

Hospitals have no internet, so the Swagger UI files come from the package `fastapi-offline` (only
its files are used; the page is ours). A Content-Security-Policy restricts the browser to this
origin, and the validator badge, which Swagger UI would load from the internet, is off.
"""

from __future__ import annotations

from importlib.resources import files

from fastapi import APIRouter
from fastapi.responses import HTMLResponse, Response

from service.errors import NotFound

_ASSETS = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon.png": "image/png",
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Lung segmentation API</title>
<link rel="stylesheet" href="docs/assets/swagger-ui.css">
<link rel="icon" href="docs/assets/favicon.png">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/assets/swagger-ui-bundle.js"></script>
<script src="docs/assets/start.js"></script>
</body>
</html>
"""
_START = """window.ui = SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  validatorUrl: null,
  deepLinking: true,
  tryItOutEnabled: true,
  presets: [SwaggerUIBundle.presets.apis],
});
"""


def add_docs_routes(router: APIRouter) -> None:
    """Add `/docs` and the assets that it needs."""

    async def page() -> HTMLResponse:
        return HTMLResponse(_PAGE, headers={"Content-Security-Policy": _POLICY})

    async def asset(name: str) -> Response:
        if name == "start.js":
            return Response(_START, media_type="text/javascript")
        if name not in _ASSETS:
            raise NotFound("The documentation has no such file.")
        data = files("fastapi_offline").joinpath("static", name).read_bytes()
        return Response(data, media_type=_ASSETS[name])

    for path, answer in (("/docs", page), ("/docs/assets/{name}", asset)):
        router.add_api_route(
            path, answer, methods=["GET"], include_in_schema=False, response_model=None
        )
