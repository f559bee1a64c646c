"""CORS: which pages of other origins a browser lets call, and the preflights that ask."""

from __future__ import annotations

from aiohttp import hdrs, web

from proxy.http.keys import CONFIG, Handler
from proxy.protocol.errors import Forbidden

#: Headers of answers that a browser shows to a page.
EXPOSED = "x-request-id, x-branchline-conversation, x-branchline-omitted-items, x-branchline-tokens"

#: Seconds that a browser may remember a preflight's answer.
PREFLIGHT_SECONDS = 600


@web.middleware
async def preflight(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer a browser's CORS preflight, if CORS is configured; who calls is not known yet."""
    origins = request.app[CONFIG].server.cors_origins
    asks = hdrs.ORIGIN in request.headers and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers
    if not (origins and asks and request.method == hdrs.METH_OPTIONS):
        return await handler(request)
    response = web.Response(status=204)
    if _allowed_origin(request):
        response.headers[hdrs.ACCESS_CONTROL_ALLOW_METHODS] = "GET, HEAD, POST, PUT, PATCH, DELETE"
        response.headers[hdrs.ACCESS_CONTROL_MAX_AGE] = str(PREFLIGHT_SECONDS)
        if wanted := request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_HEADERS):
            response.headers[hdrs.ACCESS_CONTROL_ALLOW_HEADERS] = wanted
    return response


async def allow_origin(request: web.Request, response: web.StreamResponse) -> None:
    """Put the CORS headers on every answer to an allowed origin, if CORS is configured."""
    origins = request.app[CONFIG].server.cors_origins
    if not origins:
        return
    if "*" not in origins:
        vary = response.headers.getall(hdrs.VARY, [])
        response.headers[hdrs.VARY] = ", ".join([*vary, hdrs.ORIGIN])
    if allowed := _allowed_origin(request):
        response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = allowed
        response.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = EXPOSED


def _allowed_origin(request: web.Request) -> str | None:
    origins = request.app[CONFIG].server.cors_origins
    if "*" in origins:
        return "*"
    origin = request.headers.get(hdrs.ORIGIN)
    return origin if origin in origins else None


def require_own_origin(request: web.Request) -> None:
    """Refuse a page of another origin. Where no credential is asked for, its browser could post here unasked.

    A browser sends `Origin` with every POST, and without a preflight if it names no content type; other clients
    send none.
    """
    origin = request.headers[hdrs.ORIGIN]
    if _allowed_origin(request) is None and origin.partition("://")[2] != request.host:
        raise Forbidden("Pages of this origin may not call here; see server.cors_origins.")
