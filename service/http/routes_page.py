"""The page at `/`, which shows an X-ray with its mask; served whole from this process.

It has plain files, without a build step and external resources. A Content-Security-Policy restricts
the browser to this origin.
"""

from __future__ import annotations

from importlib.resources import files

from fastapi import APIRouter
from fastapi.responses import Response

from service.errors import NotFound

_MEDIA_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def add_page_routes(router: APIRouter) -> None:
    """Add `/` and the files that it needs."""
    folder = files("service.http").joinpath("page")

    async def page() -> Response:
        html = folder.joinpath("index.html").read_bytes()
        return Response(html, media_type="text/html", headers={"Content-Security-Policy": _POLICY})

    async def file(name: str) -> Response:
        found = next((one for one in folder.iterdir() if one.name == name), None)
        media_type = _MEDIA_TYPES.get(name[name.rfind(".") :])
        if found is None or media_type is None:
            raise NotFound("The page has no such file.")
        return Response(found.read_bytes(), media_type=media_type)

    for path, answer in (("/", page), ("/page/{name}", file)):
        router.add_api_route(
            path, answer, methods=["GET"], include_in_schema=False, response_model=None
        )
