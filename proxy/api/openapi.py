"""The API description: the packaged OpenAPI document, served at `/openapi.json`."""

from __future__ import annotations

from pathlib import Path

from aiohttp import web

from proxy.protocol.errors import NotFound

#: The packaged API description; absent in a tree where it was not generated.
OPENAPI_FILE = Path(__file__).with_name("openapi.json")

#: The document as it is served, b"" where there is none.
OPENAPI: web.AppKey[bytes] = web.AppKey("openapi", bytes)


def read_document() -> bytes:
    """Return the packaged document, b"" where there is none."""
    return OPENAPI_FILE.read_bytes() if OPENAPI_FILE.exists() else b""


async def serve_openapi(request: web.Request) -> web.Response:
    """`GET /openapi.json`: the API's description."""
    if not request.app[OPENAPI]:
        raise NotFound("This build has no API description.")
    return web.Response(body=request.app[OPENAPI], content_type="application/json")


ROUTES = [web.get("/openapi.json", serve_openapi)]
